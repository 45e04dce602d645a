"""Saved evaluators: round trips, half precision, and one line for every file that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from guidance.evaluators import (
    EvaluatorConfig,
    NetworkSettings,
    build,
    load_evaluator,
    save_evaluator,
)
from guidance.evaluators.files import KINDS
from tests import tiny
from tests.guidance.evaluators.saved import config_for, random_net, save_for


def stored_in(folder: Path) -> dict[str, torch.Tensor]:
    return load((folder / "model.safetensors").read_bytes())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_saved_comes_back(kind: str, dtype: torch.dtype, sd: Any, tmp_path: Path) -> None:
    config = config_for(sd, kind, size=(8, 8))
    net = random_net(config)
    save_evaluator(tmp_path / "deep" / "er", net, config, dtype)
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    stored = stored_in(tmp_path / "deep" / "er")
    assert {value.dtype for value in stored.values()} == {dtype}
    found = load_evaluator(str(tmp_path / "deep" / "er"))
    assert found.config == config
    assert type(found.net) is type(net)
    assert not found.net.training
    for name, value in net.state_dict().items():
        loaded = found.net.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, value.to(dtype).float())


def test_saving_again_replaces(sd: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    save_for(sd, tmp_path, "discriminator")
    folder = save_for(sd, tmp_path, "classifier")
    assert load_evaluator(folder).config.kind == "classifier"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]


def test_a_stop_between_the_two_files_leaves_none(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_for(sd, tmp_path, "discriminator")
    replace_file = Path.replace

    def stopped(self: Path, target: Any) -> Any:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_for(sd, tmp_path, "discriminator", seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        load_evaluator(tmp_path)


def test_what_must_not_be_saved(sd: Any, tmp_path: Path) -> None:
    config = config_for(sd, "classifier")
    net = random_net(config)
    with pytest.raises(ValueError, match="dtype must be float16 or float32, found torch"):
        save_evaluator(tmp_path, net, config, torch.bfloat16)
    other = config_for(sd, "discriminator")
    with pytest.raises(ValueError, match=r"its head.weight must be shape \(1, 32\), found \(3, 32"):
        save_evaluator(tmp_path, net, other)
    with pytest.raises(ValueError, match="JSON compliant"):
        save_evaluator(tmp_path, net, replace(config, training={"loss": float("nan")}))
    with torch.no_grad():
        next(net.parameters()).fill_(1e5)
    with pytest.raises(ValueError, match=r"stem.weight is not finite everywhere"):
        save_evaluator(tmp_path, net, config)
    assert not list(tmp_path.iterdir())


# Files that are no evaluators


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        changed = change(values)
        text = json.dumps(values if changed is None else changed)
        (folder / "config.json").write_text(text)

    return spoil


def setting(*keys: str, to: Any) -> Callable[[Path], None]:
    def change(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = to

    return edited(change)


def without(*keys: str) -> Callable[[Path], None]:
    def change(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return edited(change)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        values = stored_in(folder)
        change(values)
        save_file(values, folder / "model.safetensors")

    return spoil


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None  # type: ignore[return-value]


def pickled(folder: Path) -> None:
    torch.save(stored_in(folder), folder / "model.safetensors")


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def not_a_number(values: dict[str, torch.Tensor]) -> None:
    values["head.bias"][1] = torch.nan


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "not JSON": (written("config.json", b"{"), "its config.json is no JSON: Expecting"),
    "not text": (written("config.json", b"\xff\xfe\x00"), "its config.json is no JSON: 'utf-8'"),
    "a number that is none": (setting("training", to=float("nan")), "no JSON: found NaN"),
    "deep": (written("config.json", b"[" * 100_000), r"recursion|nested"),
    "a list": (edited(lambda values: [values]), "it describes something else"),
    "another format": (setting("format", to="diffusteer heads"), "it describes something else"),
    "another version": (setting("version", to=2), "its version must be 1, found 2"),
    "an unknown key": (setting("more", to=1), "its config has an unknown 'more'"),
    "a key less": (without("space"), "its config lacks space"),
    "an unknown kind": (setting("kind", to="judge"), "its kind must be one of alignment.*'judge'"),
    "a kind of another type": (setting("kind", to=["reward"]), "its kind must be one of"),
    "an unknown input": (setting("input", to="x1"), "its input must be one of x0, noisy"),
    "training": (setting("training", to=[]), r"its training must be an object, found \[\]"),
    "no network": (setting("network", to=None), "its network must be an object, found None"),
    "network less": (without("network", "width"), "its network lacks width"),
    "network more": (setting("network", "heads", to=2), "its network has an unknown 'heads'"),
    "width as text": (setting("network", "width", to="8"), "width must be a whole number .*'8'"),
    "size of one": (setting("network", "size", to=[8]), r"size must be \(height, width\)"),
    "channels": (setting("network", "channels", to=16), "its channels must be the 4 of its space"),
    "text for a classifier": (setting("network", "text", to=64), "its text must be the width 0 of"),
    "huge": (setting("network", "width", to=512), "at most 1000000 parameters, found 3194883"),
    "too large a number": (setting("network", "width", to=10**9), "width must be a whole number"),
    "space of text": (setting("space", to="class"), "its space must be an object, found 'class'"),
    "space less": (without("space", "scaling_factor"), "its space lacks scaling_factor"),
    "space more": (setting("space", "pixels", to=3), "its space has an unknown 'pixels'"),
    "space weights": (setting("space", "weights", to="xyz"), "its space: weights must be as"),
    "space digits": (setting("space", "weights", to="a:xyz"), "expected hexadecimal digits"),
    "space mean": (setting("space", "latents_mean", to=["a"]), "its space: latents_mean must be"),
    "a denoiser of text": (setting("denoiser", to="unet"), "its denoiser must be an object"),
    "classes less": (setting("classes", to=["fox", "owl"]), "its classes must be 3 different name"),
    "classes equal": (setting("classes", to=["a", "b", "a"]), "its classes must be 3 different na"),
    "classes of numbers": (setting("classes", to=[1, 2, 3]), "its classes must be 3 different nam"),
    "no classes": (setting("classes", to=None), "its classes must be 3 different names, found Non"),
    "a text as classes": (setting("classes", to="abc"), "its classes must be 3 different names"),
    "a tensor less": (tensors(lambda values: values.pop("stem.bias")), "its model lacks stem.bias"),
    "a tensor more": (
        tensors(lambda values: values.update(extra=torch.zeros(1))),
        "its model has an unknown 'extra'",
    ),
    "a wrong shape": (
        tensors(lambda values: values.update({"head.bias": torch.zeros(4)})),
        r"its head.bias must be shape \(3,\), found \(4,\)",
    ),
    "a wrong dtype": (
        tensors(lambda values: values.update({"head.bias": torch.zeros(3).long()})),
        "its head.bias must be float16 or float32, found torch.int64",
    ),
    "not finite": (tensors(not_a_number), "head.bias is not finite everywhere"),
    "a pickle": (pickled, "its model.safetensors is no safetensors file"),
    "cut": (cut, "its model.safetensors is no safetensors file"),
    "empty": (written("model.safetensors", b""), "its model.safetensors is no safetensors file"),
    "a large file": (
        written("model.safetensors", b"0" * 5_000_001),
        "its model.safetensors has 5000001 bytes, expected at most 5000000",
    ),
    "a large config": (written("config.json", b" " * 1_000_001), "config.json has 1000001 bytes"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_one_line(name: str, sd: Any, tmp_path: Path) -> None:
    folder = save_for(sd, tmp_path / "evaluator", "classifier")
    load_evaluator(folder)
    spoil, reason = SPOILED[name]
    spoil(tmp_path / "evaluator")
    with pytest.raises(ValueError, match=reason) as error:
        load_evaluator(folder)
    text = str(error.value)
    assert text.startswith(f"{folder!r} must be an evaluator that `diffusteer train evaluator`")
    assert "\n" not in text
    assert len(text) < 600


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path, "", "a\0b"):
        with pytest.raises(ValueError, match=r"cannot be used \((it has no config.json|embedded)"):
            load_evaluator(path)


def test_kinds_with_what_they_need(sd: Any) -> None:
    alignment, reward = config_for(sd, "alignment"), config_for(sd, "reward")
    classifier = config_for(sd, "classifier")
    for config, changes, error in (
        (alignment, {"text_encoder": None}, "its text must be the width 0 of its text_encoder"),
        (reward, {"network": replace(reward.network, outputs=2)}, "its outputs must be 1 score"),
        (reward, {"classes": ("a",)}, "its classes must be none for this kind"),
        (reward, {"kind": "minority"}, "its denoiser must be the one it knows, found None"),
        (reward, {"kind": "classifier"}, "its text must be text for alignment, perhaps for reward"),
        (classifier, {"kind": "alignment", "classes": None}, "its text must be text for alignment"),
        (classifier, {"space": {"pixels": True}, "classes": None}, "space: pixels must be as save"),
    ):
        with pytest.raises(ValueError, match=error):
            replace(config, **changes)
    pixels = replace(reward, space={"pixels": 3}, network=replace(reward.network, channels=3))
    assert EvaluatorConfig.from_dict(json.loads(json.dumps(pixels.to_dict()))) == pixels
    assert build("reward", NetworkSettings(3, 1)).settings.channels == 3
    assert reward.network.text == tiny.WIDTH * 2
