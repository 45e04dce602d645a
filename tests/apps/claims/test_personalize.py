"""``diffusteer claims personalize``: what is asked, read and trained, and the files."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from apps.claims import learning, personalize
from apps.claims.concepts import CONCEPTS, PROMPTS, Group
from apps.claims.learning import RECIPES
from apps.claims.personal_cells import CELLS, PersonalCell
from apps.cli import app
from apps.emblem.score import HEADS, Reading, labels, stated
from apps.emblem.world import (
    HELD_OUT_SHAPES,
    HELD_OUT_TEXTURES,
    SHAPES,
    TEXTURES,
    Scene,
    parse,
)

ARROW = CONCEPTS[0]
TINY = (
    PersonalCell(recipe="", prompts="without"),
    PersonalCell(recipe="perfusion", prompts="without"),
    PersonalCell(recipe="perfusion", prompts="without", controls={"only_when_present": False}),
    PersonalCell(recipe="ti", prompts="together"),
    PersonalCell(recipe="perfusion", prompts="alone", controls={"beta": 0.5}),
)


def read(scenes: Sequence[Scene], recognised: bool = True) -> Reading:
    """What a classifier without a doubt would tell of these scenes."""
    rows: dict[str, list[torch.Tensor]] = {head: [] for head in HEADS}
    for scene in scenes:
        for (head, values), number in zip(HEADS.items(), labels(scene), strict=True):
            number = int(recognised) if head == "recognisable" else max(number, 0)
            rows[head].append(torch.eye(len(values))[number])
    return Reading({head: torch.stack(found) for head, found in rows.items()}, torch.zeros(0))


def asked(prompts: str) -> Group:
    return next(iter(PROMPTS[prompts](1, 3).values()))


def values(group: Group, *shown: Scene, recognised: bool = True) -> dict[str, float]:
    return {name: found[0] for name, found in group.values(read(shown, recognised)).items()}


def changed(scene: Scene, slot: int, **attributes: str) -> Scene:
    emblems = list(scene.emblems)
    emblems[slot] = replace(emblems[slot], **attributes)
    return Scene(tuple(emblems), scene.background)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_a_picture_of_what_is_asked_for_is_right(prompts: str) -> None:
    group = asked(prompts)
    found = values(group, *group.goals)
    assert found["accuracy"] == 1
    for name in ("identity", "held_out", "concept"):
        assert found[name] == 1 or prompts == "without"
    assert found["leakage"] == 0 or prompts in ("alone", "together")


def test_each_slip_counts_where_it_belongs() -> None:
    group = asked("alone")
    (goal,) = group.goals
    shape = values(group, changed(goal, 0, shape="triangle"))
    assert shape["identity"] == pytest.approx(2 / 3)
    assert shape["held_out"] == 0
    assert (shape["concept"], shape["accuracy"]) == (0, 1)
    colour = values(group, changed(goal, 0, colour="pink"))
    assert colour["identity"] == pytest.approx(2 / 3)
    assert colour["held_out"] == 1
    size = {"large": "small", "small": "large"}[str(goal.emblems[0].size)]
    assert values(group, changed(goal, 0, size=size))["accuracy"] == 0
    assert values(group, changed(goal, 0, size=size))["concept"] == 1
    assert values(group, Scene(goal.emblems * 2, goal.background))["accuracy"] == 0
    nothing = values(group, goal, recognised=False)
    assert (nothing["identity"], nothing["concept"], nothing["accuracy"]) == (0, 0, 0)


def test_a_neighbour_that_takes_after_the_concept_is_a_leak() -> None:
    group = asked("beside")
    (goal,) = group.goals
    leaked = values(group, changed(goal, 1, shape="arrow"))
    assert (leaked["leakage"], leaked["concept"], leaked["accuracy"]) == (1, 1, 0)
    lost = values(group, changed(goal, 0, shape="triangle"))
    assert (lost["leakage"], lost["held_out"], lost["accuracy"]) == (0, 0, 1)


def test_without_the_word_nothing_counts_as_the_concept() -> None:
    group = asked("without")
    (goal,) = group.goals
    found = values(group, changed(goal, 0, shape="circle"))
    assert math.isnan(found["identity"]) and math.isnan(found["concept"])
    assert (found["accuracy"], found["leakage"]) == (0, 0)


def test_both_of_two_concepts_count() -> None:
    group = asked("together")
    (goal,) = group.goals
    assert [concept.word for concept in group.concepts] == ["<arrow>", "<flower>"]
    found = values(group, changed(goal, 1, shape="star"))
    assert (found["held_out"], found["concept"]) == (0.5, 0)
    assert found["identity"] == pytest.approx(5 / 6)


def test_something_of_each_concept_is_held_out() -> None:
    for concept in CONCEPTS:
        assert concept.value in HELD_OUT_SHAPES + HELD_OUT_TEXTURES
        known = parse(f"a {concept.plain}").emblems[0]
        assert known.shape in SHAPES
        assert known.texture in (None, *TEXTURES)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_words_stand_where_the_models_own_do(prompts: str) -> None:
    groups = PROMPTS[prompts](8, 1)
    assert len(groups) == len(CONCEPTS)
    for group in groups.values():
        for goal, personal, plain in zip(group.goals, group.personal, group.plain, strict=True):
            assert goal.background not in {emblem.colour for emblem in goal.emblems}
            swapped = personal
            for concept in group.concepts:
                assert prompts == "without" or concept.word in personal
                swapped = swapped.replace(concept.word, concept.plain)
            assert swapped == plain
            asked_for = dict(((n, s), v) for n, s, v in stated(goal))
            learned = {(c.held_out, s) for s, c in enumerate(group.concepts)}
            for name, slot, value in stated(parse(plain)):
                assert asked_for[name, slot] == value or (name, slot) in learned


def test_cells_have_names_of_their_own() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert {cell.recipe for cell in CELLS} - {""} == set(RECIPES)


def test_settings_reach_method_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(learning, "train", lambda *them: given.append((them[1], them[4])))
    for name in RECIPES:
        learning._train(name, "<arrow>", tmp_path)
    method = {name: found for name, (found, _) in zip(RECIPES, given, strict=True)}
    training = {name: found for name, (_, found) in zip(RECIPES, given, strict=True)}
    assert method["perfusion"].key_lock and not method["unlocked"].key_lock
    assert method["zoodip"].quantize and not method["float"].quantize
    assert method["zoodip"].nu > method["whole"].nu == 0
    assert method["uniform"] == method["zoodip"]
    assert (training["uniform"].timestep_low, training["uniform"].timestep_high) == (0, 1000)
    assert not {"timestep_low", "timestep_high"} & training["zoodip"].model_fields_set


def run(folder: Path, *arguments: object) -> Result:
    where = ["--out", folder / "results", "--work", folder / "cells", "--images", 6]
    words = ["claims", "personalize", *map(str, [*where, *arguments])]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def here(module: str, arguments: Sequence[str], what: str) -> str:
    recipe, word, work = arguments
    return json.dumps(learning._train(recipe, word, Path(work)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole measurement of two concepts, each trained for a step."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        patch.setattr(learning, "in_own_process", here)
        result = run(folder)
    assert result.exit_code == 0, result.stderr
    assert "| ti-together | TextualInversion |" in result.stdout
    return folder


def small(patch: pytest.MonkeyPatch) -> None:
    short = {"max_train_steps": 1, "train_batch_size": 1}
    patch.setattr(personalize, "CELLS", TINY)
    patch.setattr(personalize, "STEPS", 2)
    patch.setattr(learning, "_CAPTIONS", 400)
    for name in ("ti", "perfusion"):
        recipe = replace(RECIPES[name], training={**RECIPES[name].training, **short})
        patch.setitem(RECIPES, name, recipe)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "results" / "claims-personalize.json").read_text())
    assert found["command"] == "diffusteer claims personalize --images 6 --seed 0"
    return {row["cell"]: row for row in found["cells"]}


def test_rows_tell_what_was_measured(made: Path) -> None:
    found = rows(made)
    assert list(found) == [cell.name for cell in TINY]
    assert found["plain-without"]["training_steps"] is None
    assert found["ti-together"]["training_steps"] == 1
    assert found["ti-together"]["bytes"] == 4 * 96 * 4  # four float32 vectors of the text tower
    assert found["ti-together"]["training_memory"] > 1e6
    assert list(found["ti-together"]["groups"])[:2] == ["<arrow><flower>", "<flower><bolt>"]
    assert found["perfusion-beta-0.5-alone"]["controls"] == {"beta": 0.5}
    assert "leakage" not in found["perfusion-beta-0.5-alone"]["measures"]
    for row in found.values():
        for measure in row["measures"].values():
            assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1
    with (made / "results" / "claims-personalize.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["cell"] for row in table] == list(found)
    assert table[3]["training_steps"] == "1.0"
    assert {"accuracy", "accuracy_low", "leakage_high"} <= table[0].keys()


def pictures(folder: Path, cell: str) -> torch.Tensor:
    return load_file(folder / "cells" / f"{cell}-arrow.safetensors")["images"]


def test_prompts_without_the_word_keep_their_pictures(made: Path) -> None:
    plain = pictures(made, "plain-without")
    assert torch.equal(pictures(made, "perfusion-without"), plain)
    off = pictures(made, "perfusion-only_when_present-false-without")
    assert not torch.equal(off, plain)


def test_nothing_is_learned_or_drawn_twice(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    before = rows(made)
    monkeypatch.setattr(learning, "in_own_process", None)
    monkeypatch.setattr(personalize.Personal, "_draw", None)
    result = run(made, "--json")
    assert result.exit_code == 0, result.stderr
    assert rows(made) == {row["cell"]: row for row in json.loads(result.stdout)["cells"]} == before


def test_plots_and_pictures_are_drawn(made: Path) -> None:
    names = {path.name for path in (made / "results").iterdir()}
    assert {"claims-personalize-front.png", "claims-personalize-together.png"} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", 7], "images must be a multiple of 6 from 6 up, found 7"),
        (["--images", 8], "images must be a multiple of 6 from 6 up, found 8"),
        (["--images", 0], "images must be a multiple of 6 from 6 up, found 0"),
        (["--only", "dreambooth"], "only='dreambooth' matches no cell"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[object], message: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"diffusteer: error: {message}")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
