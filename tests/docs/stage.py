"""What the code of the documentation runs on: tiny pipelines, two steps, a few files."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

import personalize
from apps.emblem.data import export
from guidance.core import intercept
from personalize import TrainSettings
from tests import tiny, tiny_families
from tests.docs.pages import ROOT


def _sdxl() -> Any:
    """With tokenizers of their own, as a new word goes into both."""
    pipe = tiny.sdxl()
    pipe.tokenizer_2 = tiny.tokenizer()
    return pipe


PIPELINES: dict[str, Callable[[], Any]] = {
    **tiny_families.FAMILIES,
    **tiny.FAMILIES,
    "sdxl": _sdxl,
}
"""Tiny pipelines by the name that ``<!-- pipe: NAME -->`` gives them."""

HUB = {
    "stable-diffusion-v1-5/": "sd",
    "stabilityai/stable-diffusion-xl": "sdxl",
    "stabilityai/stable-diffusion-3": "sd3",
    "black-forest-labs/FLUX.1": "flux",
}
"""The tiny pipelines that stand for models of the hub whose ids start like this."""

SMALL = {"height": 16, "width": 16, "max_sequence_length": 16}
STEPS = 2


class Stage:
    """A folder and pipelines for code that expects large ones, until the patches are taken off."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._load = patch, DiffusionPipeline.from_pretrained
        self._tiny: WeakSet[Any] = WeakSet()
        self._shortened: set[type] = set()
        # Without its cache, which would keep the short calls for the tests that follow.
        patch.setattr(intercept, "_intercepted", intercept._intercepted.__wrapped__)
        for loader in (DiffusionPipeline, AutoPipelineForText2Image):
            patch.setattr(loader, "from_pretrained", lambda source, **_: self._loaded(source))
        for name in ("to", "enable_model_cpu_offload"):
            patch.setattr(DiffusionPipeline, name, lambda pipe, *_: pipe)
        patch.setattr(personalize, "train", _brief(personalize.train))
        patch.chdir(folder)

    def pipeline(self, name: str) -> Any:
        """A tiny pipeline, or a shipped one by its own name, whose calls take two steps."""
        pipe = PIPELINES[name]() if name in PIPELINES else self._load(ROOT / "assets" / name)
        pipe.set_progress_bar_config(disable=True)
        if name in PIPELINES:
            self._tiny.add(pipe)
        if type(pipe) not in self._shortened:
            self._shortened.add(type(pipe))
            self._patch.setattr(type(pipe), "__call__", self._short(type(pipe).__call__))
        return pipe

    def _short(self, call: Callable[..., Any]) -> Callable[..., Any]:
        known = inspect.signature(call).parameters
        small = {name: value for name, value in SMALL.items() if name in known}

        @functools.wraps(call)
        def short(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            sizes = small if pipe in self._tiny else {}
            return call(pipe, *args, **kwargs | sizes | {"num_inference_steps": STEPS})

        return short

    def _loaded(self, source: str) -> Any:
        if Path(source).is_dir():
            return self.pipeline(Path(source).name)
        return self.pipeline(next(HUB[start] for start in HUB if source.startswith(start)))


def furnish(folder: Path) -> None:
    """The files that pages speak of: photos, pictures with prompts, a weak model, a LoRA."""
    (folder / "assets").symlink_to(ROOT / "assets")
    export(folder / "out" / "001", 2, seed=0)
    (folder / "photos").mkdir()
    for picture in (folder / "out" / "001").glob("*.png"):
        photo = Path(shutil.copy(picture, folder / "photos"))
        photo.with_suffix(".txt").write_text("a {}")  # templates are longer than tiny encoders read
    unet = tiny.sd().unet
    unet.save_pretrained(folder / "early-checkpoint" / "unet")
    unet.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, weight_name="my-style.safetensors"
    )


def _brief(train: Callable[..., Any]) -> Callable[..., Any]:
    def brief(pipe: Any, method: Any, images: Any, out: Any, settings: Any = None) -> Any:
        few = {"max_train_steps": 2, "train_batch_size": 1, "gradient_accumulation_steps": 1}
        return train(
            pipe, method, images, out, (settings or TrainSettings()).model_copy(update=few)
        )

    return brief
