"""Settings in pictures: what is written comes back into the form, and leads to the same picture."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from apps.demo.drawing import draw
from apps.demo.forms import DrawRequest, checked
from apps.demo.metadata import read_request, settings_of
from apps.demo.model import OWN_SCHEDULER, Model, Models
from apps.demo.presets import PRESETS
from apps.demo.stack import build
from apps.generate import Call, Job
from apps.pictures import write_png


def wanted(stack: list[dict[str, Any]], **changes: Any) -> DrawRequest:
    plain = {"model": "emblem-unet", "prompt": "a red star", "stack": stack, "pictures": 1}
    return checked(DrawRequest, plain | changes)


def written(path: Path, unet: Model, request: DrawRequest, image: Image.Image) -> None:
    rule = build(request.stack, unet)
    with unet.scheduled(request.scheduler):
        common = settings_of(request, unet, rule)
    size = {"width": image.width, "height": image.height}
    write_png(path, image, {**common, "seed": request.seed, **size})


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_brings_its_request_back(
    models: Models, unet: Model, tmp_path: Path, name: str
) -> None:
    request = wanted(PRESETS[name], negative="a circle", steps=7, seed=5, scheduler="euler")
    written(tmp_path / "a.png", unet, request, Image.new("RGB", (8, 8)))
    found = read_request(tmp_path / "a.png", models)
    assert build(found.stack, unet) == build(request.stack, unet)
    assert found.model_dump(exclude={"stack"}) == request.model_dump(exclude={"stack"})


def test_the_models_own_scheduler_is_known_again(
    models: Models, unet: Model, tmp_path: Path
) -> None:
    written(tmp_path / "a.png", unet, wanted([]), Image.new("RGB", (8, 8)))
    assert read_request(tmp_path / "a.png", models).scheduler == OWN_SCHEDULER


def test_no_path_of_the_machine_gets_into_a_picture(unet: Model, tmp_path: Path) -> None:
    request = wanted([{"rule": "AutoGuidance"}, {"rule": "MinorityGuidance"}])
    written(tmp_path / "a.png", unet, request, Image.new("RGB", (8, 8)))
    with Image.open(tmp_path / "a.png") as image:
        text = json.dumps(image.info)
    assert "emblem-unet-weak" in text
    assert str(Path(__file__).parents[3]) not in text


def test_the_same_request_draws_the_same_picture(
    models: Models, unet: Model, tmp_path: Path
) -> None:
    def drawn(request: DrawRequest) -> Image.Image:
        rule = build(request.stack, unet)
        jobs = [Job(request.prompt, request.seed)]
        call = Call(steps=request.steps, guided=rule is not None)
        return draw(unet, rule, jobs, call, Event(), lambda look: None).images[0]

    request = wanted(PRESETS["CFG 8, rescaled"], steps=3, seed=11)
    image = drawn(request)
    written(tmp_path / "a.png", unet, request, image)
    assert drawn(read_request(tmp_path / "a.png", models)).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"guidance_config": {"rule": "LinearAG", "scale": 1, "coefficients": "/etc/passwd"}},
        {"guidance_config": {"rule": "CFG", "scale": 4, "between": [{"sigma": [1, 2]}]}},
        {"guidance_config": {"rule": "AutoGuidance", "scale": 4, "weak": "/etc"}, "seed": -1},
        {"guidance_config": [1, 2]},
        {"model": "nowhere"},
        {"prompt": 5},
        {"steps": 10**9},
        {"scheduler": "../x"},
    ],
)
def test_foreign_settings_are_refused(
    models: Models, tmp_path: Path, content: dict[str, Any]
) -> None:
    whole = {
        "model": "emblem-unet",
        "prompt": "a red star",
        "negative_prompt": None,
        "steps": 5,
        "seed": 0,
        "scheduler": "DDIMScheduler",
        "guidance_config": None,
    }
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("diffusteer", json.dumps(whole | content if content else 5))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ValueError) as refusal:
        read_request(tmp_path / "a.png", models)
    assert "\n" not in str(refusal.value)


def test_pictures_without_settings_and_files_that_are_none(
    models: Models, tmp_path: Path, photo: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", photo):
        with pytest.raises(ValueError, match="carries no settings"):
            read_request(path, models)
