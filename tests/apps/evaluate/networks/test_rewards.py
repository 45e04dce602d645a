"""Preference models: PickScore for real, the packages of the others by stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from apps.evaluate.networks import reward_packages
from apps.evaluate.networks.clip import load_clip
from apps.evaluate.networks.rewards import Reward, load_reward
from tests.apps.evaluate.tiny_networks import picture, save_clip

PROMPTS = ["red star", "blue ring", "red star"]
PICTURES = [picture(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny PickScore whose logits are scaled by 5."""
    folder = save_clip(tmp_path_factory.mktemp("models") / "tiny-pick")
    weights = load_file(folder / "model.safetensors")
    weights["logit_scale"] = torch.tensor(5.0).log()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_pickscore_is_a_scaled_cosine(folder: Path) -> None:
    reward = load_reward(f"pickscore:{folder}")
    clip = load_clip(str(folder), torch.device("cpu"))
    pictures = clip.features(torch.stack([clip.prepare(image) for image in PICTURES])).double()
    texts = clip.text(PROMPTS).double()
    cosines = (pictures * texts).sum(1) / (pictures.norm(dim=1) * texts.norm(dim=1))
    assert reward.score(PROMPTS, PICTURES) == pytest.approx((5 * cosines).tolist(), rel=1e-5)
    assert reward.describe() == clip.describe() | {"name": "pickscore:tiny-pick"}
    assert reward.name == "pickscore:tiny-pick"


def test_pickscore_does_not_depend_on_the_batch(folder: Path) -> None:
    reward = load_reward(f"pickscore:{folder}")
    apart = [
        reward.score([prompt], [image])[0] for prompt, image in zip(PROMPTS, PICTURES, strict=True)
    ]
    assert reward.score(PROMPTS, PICTURES) == pytest.approx(apart, abs=1e-5)


def test_the_authors_pickscore_comes_from_the_hub() -> None:
    with pytest.raises(ValueError, match="'yuvalkirstain/PickScore_v1'; check the id and the"):
        load_reward("pickscore")


class OfImageReward(nn.Module):
    """What ImageReward.load returns: brightness times length of the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(1, 1)

    def score(self, prompt: str, image: Image.Image) -> float:
        assert image.mode == "RGB"
        assert not torch.is_grad_enabled()
        return np.asarray(image).mean().item() * len(prompt)


def test_imagereward_scores_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package: Any = ModuleType("ImageReward")

    def load(name: str, device: torch.device) -> OfImageReward:
        print("load checkpoint")
        assert (name, device) == ("ImageReward-v1.0", torch.device("cpu"))
        return OfImageReward()

    package.load = load
    monkeypatch.setitem(sys.modules, "ImageReward", package)
    monkeypatch.setattr(reward_packages, "version", {"image-reward": "1.5"}.__getitem__)
    reward = load_reward("imagereward")
    expected = [
        np.asarray(image).mean() * len(p) for p, image in zip(PROMPTS, PICTURES, strict=True)
    ]
    assert reward.score(PROMPTS, PICTURES) == pytest.approx(expected)
    about = reward.describe()
    assert about["package"] == "image-reward 1.5"
    assert len(about["weights"]) == 64
    assert capsys.readouterr().out == ""


def test_hpsv2_gets_the_pictures_of_a_prompt_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def score(
        img_path: list[Image.Image], prompt: str, cp: str | None = None, hps_version: str = "v2.0"
    ) -> list[np.float16]:
        assert hps_version == "v2.1"
        calls.append((prompt, len(img_path)))
        return [np.float16(np.asarray(image).mean() / 256 + len(prompt)) for image in img_path]

    module: Any = ModuleType("hpsv2.img_score")
    module.score = score
    monkeypatch.setitem(sys.modules, "hpsv2", ModuleType("hpsv2"))
    monkeypatch.setitem(sys.modules, "hpsv2.img_score", module)
    monkeypatch.setattr(reward_packages, "version", {"hpsv2": "1.2.0"}.__getitem__)
    reward = load_reward("hpsv2")
    expected = [np.asarray(i).mean() / 256 + len(p) for p, i in zip(PROMPTS, PICTURES, strict=True)]
    found = reward.score(PROMPTS, PICTURES)
    assert found == pytest.approx(expected, rel=1e-3)
    assert all(type(score) is float for score in found)
    assert calls == [("red star", 2), ("blue ring", 1)]
    assert reward.describe() == {"name": "hpsv2", "package": "hpsv2 1.2.0", "weights": "v2.1"}


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("imagereward", "ImageReward", "image-reward"), ("hpsv2", "hpsv2", "hpsv2")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=f"{package} is not installed; pip install {package}"):
        load_reward(name)


@pytest.mark.parametrize(
    "line", ["from torch import no_such_name", "import no_such_package", "open('no_such_file')"]
)
def test_a_package_that_fails_to_import_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    (tmp_path / "ImageReward.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ImageReward", raising=False)
    with pytest.raises(ValueError, match=r"image-reward is installed but .*no_such"):
        load_reward("imagereward")


def test_as_many_prompts_as_pictures(folder: Path) -> None:
    with pytest.raises(ValueError, match="there are 1 prompts and 3 images"):
        load_reward(f"pickscore:{folder}").score(PROMPTS[:1], PICTURES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pikscore", r"no reward 'pikscore'; did you mean 'pickscore'\? \(expected one of "),
        ("hpsv2:v2.0", r"no reward 'hpsv2:v2.0' \(expected one of pickscore, pickscore:FOLDER"),
    ],
)
def test_bad_names(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_reward(name)


class Brightness:
    """A reward of a user's own."""

    name = "brightness"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        return [float(np.asarray(image).mean()) for image in images]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


def test_a_users_own_reward_has_the_interface() -> None:
    reward: Reward = Brightness()
    assert reward.score(["", ""], [Image.new("RGB", (2, 2), c) for c in ("black", "white")]) == [
        0.0,
        255.0,
    ]
