"""Who may see the demo."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from apps.cli import app
from apps.demo.settings import DemoSettings


def test_loopback_needs_no_password_and_has_none() -> None:
    settings = DemoSettings()
    assert (settings.host, settings.share, settings.credentials) == ("127.0.0.1", False, None)


def test_with_a_password_others_may_come() -> None:
    settings = DemoSettings(host="0.0.0.0", share=True, auth="ann:a:b")
    assert settings.credentials == ("ann", "a:b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"host": "0.0.0.0"}, "host '0.0.0.0' lets others in.* give --auth"),
        ({"share": True}, "share lets others in: give --auth"),
        ({"auth": "ann"}, "auth must be user:password"),
        ({"auth": ":secret"}, "auth must be user:password"),
        ({"auth": "ann:"}, "auth must be user:password"),
        ({"port": 0}, "port must be a whole number from 1 to 65535"),
        ({"models": ()}, "at least one model"),
    ],
)
def test_what_lets_strangers_in_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemoSettings(**wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share"], "share lets others in"),
        (["--host", "0.0.0.0"], "lets others in"),
        (["--model", "nowhere"], "model 'nowhere' not found"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError) as refusal:
        DemoSettings(auth="secret")
    assert "secret" not in str(refusal.value)
