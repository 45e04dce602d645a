"""Stops: in line, of one task alone, of all tasks of a visitor who leaves."""

from __future__ import annotations

from apps.demo.session import Session


def test_a_stop_in_line_keeps_a_task_from_beginning(session: Session) -> None:
    session.ask("generate")
    assert session.halt("generate")
    assert session.begin("generate").is_set()


def test_a_stop_is_for_one_task_alone(session: Session) -> None:
    session.ask("generate")
    drawing = session.begin("generate")
    session.ask("search")
    assert session.halt("search")
    assert not drawing.is_set()
    assert not session.halt("generate")
    assert drawing.is_set()
    assert session.begin("search").is_set()


def test_a_stopped_task_can_be_asked_for_again(session: Session) -> None:
    session.ask("generate")
    session.halt("generate")
    session.ask("generate")
    assert not session.begin("generate").is_set()


def test_programs_begin_without_asking(session: Session) -> None:
    assert not session.halt("generate")
    first = session.begin("generate")
    session.halt("generate")
    assert first.is_set()
    assert not session.begin("generate").is_set()


def test_leaving_stops_all_tasks(session: Session) -> None:
    stops = [session.begin("generate"), session.begin("search")]
    session.ask("train")
    session.end()
    assert all(stop.is_set() for stop in stops)
    assert session.begin("train").is_set()
