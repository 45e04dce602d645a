"""Models of other families in the demo: presets, previews where they can be, softened heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest

from apps.demo.controls import offers
from apps.demo.drawing import Drawn, Look, drawing
from apps.demo.forms import DrawRequest, RuleItem, checked
from apps.demo.generate_tab import generating
from apps.demo.heads_search import HuntRequest, gains, searching
from apps.demo.heads_tab import SoftenRequest, softening
from apps.demo.metadata import read_request
from apps.demo.model import Model, Models
from apps.demo.presets import PRESETS
from apps.demo.session import Session
from apps.demo.settings import DemoSettings
from apps.demo.stack import build
from apps.generate import Job
from guidance.hunting.progress import Progress
from tests import tiny, tiny_families

FAMILIES = {"sdxl": tiny.sdxl, "sd3": tiny.sd3, "flux": tiny_families.flux}
PROMPT = "a red star"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models of other families, from folders."""
    folder = tmp_path_factory.mktemp("others")
    for name, make in FAMILIES.items():
        make().save_pretrained(folder / name)
    folders = tuple(str(folder / name) for name in FAMILIES)
    models = Models(DemoSettings(models=folders, device="cpu", dtype="float32"))
    models["flux"].pipe.default_sample_size = tiny.SIZE
    return models


@pytest.fixture(params=FAMILIES)
def other(request: pytest.FixtureRequest, others: Models) -> Model:
    """One of them."""
    return others[request.param]


def drawn(model: Model, items: Sequence[RuleItem], steps: int) -> list[Look | Drawn]:
    request = DrawRequest(model=model.name, prompt=PROMPT, steps=steps, stack=list(items))
    jobs = [Job(PROMPT, 3), Job(PROMPT, 4)]
    return list(drawing(model, request, build(items, model), jobs, Event()))


@pytest.mark.filterwarnings("ignore:AdaptiveGuidance")  # random weights agree at once
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws(other: Model, name: str) -> None:
    *_, made = drawn(other, [RuleItem(**item) for item in PRESETS[name]], 2)
    assert isinstance(made, Drawn)
    assert len(made.images) == 2


def test_previews_are_shown_unless_latents_are_packed(other: Model) -> None:
    looks = [look for look in drawn(other, [], 4) if isinstance(look, Look)]
    shown = [image.size for look in looks for image in look.previews or ()]
    assert set(shown) == (set() if other.name == "flux" else {(16, 16)})


def test_weaker_models_are_offered_by_their_layers(other: Model) -> None:
    (weak,) = other.weak
    assert weak == f"without {', '.join(other.inspection.skipped)}"
    item = RuleItem(rule="AutoGuidance", settings={"weak": weak})
    *_, made = drawn(other, [item], 1)
    assert isinstance(made, Drawn)


def test_what_does_not_fit_gets_a_message(other: Model) -> None:
    assert "MinorityGuidance" in offers()
    with pytest.raises(ValueError, match=f"no classifier was trained for {other.name}"):
        build([RuleItem(rule="MinorityGuidance")], other)
    with pytest.raises(ValueError, match=f"{other.name} has no head 'mid:0'"):
        SoftenRequest(model=other.name, prompt=PROMPT, heads=["mid:0"]).rules(other)


def test_a_run_gives_pictures_whose_settings_come_back(
    other: Model, others: Models, session: Session, tmp_path: Path
) -> None:
    values = {"model": other.name, "prompt": PROMPT, "steps": 2, "pictures": 1, "seed": 5}
    wanted = checked(DrawRequest, values | {"stack": PRESETS["CFG 8, rescaled"]})
    *_, (said, *_) = generating(other, wanted, build(wanted.stack, other), session, Event())
    assert "1 pictures in" in said
    assert read_request(session.drawn[0], others) == wanted


def test_heads_are_softened(other: Model) -> None:
    head = f"{next(iter(other.layers))}:1"
    soften = SoftenRequest(model=other.name, prompt=PROMPT, heads=[head], steps=1, pictures=1)
    *_, (said, _) = softening(other, soften, Event())
    assert "1 heads softened." in said


def test_the_map_fills_while_heads_are_found(others: Models) -> None:
    model = others["sd3"]
    heads = {f"{layer}:{head}" for layer, count in model.layers.items() for head in range(count)}
    values = {"model": model.name, "prompt": PROMPT, "steps": 1, "pictures": 1, "k": 2}
    wanted = checked(HuntRequest, values | {"objective": "recognisable emblems"})
    _, *looks, (said, last) = searching(model, wanted, Event())
    assert "Best: " in said
    assert json.loads(last.props["gains"]).keys() == heads
    filled = [len(json.loads(look.props["gains"])) for _, look in looks]
    assert filled == sorted(filled)
    assert len(set(filled)) > 2
    first = [look.value for line, look in looks if "Round 1 of 2" in line]
    second = [look.value for line, look in looks if "Round 2 of 2" in line]
    assert set(map(len, first)) == {0} and set(map(len, second)) == {1}
    assert last.value[:1] == second[-1]


def test_gains_are_those_of_the_last_trial() -> None:
    one, two, three = (("mid", head) for head in range(3))
    now = Progress(6, 6, 1.0, ({one: 1.5, two: 3.0, three: 0.5}, {one: 2.0}))
    assert gains(now) == {one: -1.0, two: 2.0, three: -0.5}
    assert gains(Progress(0, 6, None, ({},))) == {}
