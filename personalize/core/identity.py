"""What makes a run this run: a checkpoint of another one is refused, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from personalize.core.borrowed import modules
from personalize.core.settings import DataSettings, TrainSettings

if TYPE_CHECKING:
    from personalize.core.images import Item
    from personalize.core.method import Method

_ARCHITECTURES = {
    "v1": "stable-diffusion-v1",
    "v2": "stable-diffusion-v2",
    "StableDiffusionXLPipeline": "stable-diffusion-xl-v1-base",
    "StableDiffusion3Pipeline": "stable-diffusion-3",
    "FluxPipeline": "flux-1-dev",
}
_PACKAGES = ("diffusteer", "torch", "diffusers", "transformers", "accelerate")


def tool_version() -> str:
    """Version of this package."""
    try:
        return version("diffusteer")
    except PackageNotFoundError:
        return "unknown"


def base_hash(pipe: Any) -> str:
    """sha256 over the weights of all networks of a pipeline, see ``guidance.weights_hash``."""
    from guidance.head_set import weights_hash

    parts = sorted(modules(pipe).items())
    lines = [f"{name} {weights_hash(part)}\n" for name, part in parts]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identity(
    method: Method,
    settings: TrainSettings,
    data: DataSettings,
    items: Sequence[Item],
    **others: Any,
) -> dict[str, Any]:
    """All that the numbers of a run depend on, as JSON."""
    photos = [(item.sha256, item.prompts) for item in items]
    return {
        "method": {"name": method.name} | {k: repr(v) for k, v in asdict(method).items()},  # type: ignore[call-overload]
        "train": settings.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "photos": hashlib.sha256(repr(photos).encode()).hexdigest(),
        "versions": {package: _version(package) for package in _PACKAGES},
    } | others


def model_spec(pipe: Any, kind: str, title: str, resolution: int) -> dict[str, str]:
    """Metadata of ModelSpec 1.0.1; without a date, so that equal runs write equal files."""
    name = type(pipe).__name__
    if name == "StableDiffusionPipeline":
        name = f"v{2 if pipe.unet.config.cross_attention_dim == 1024 else 1}"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES[name]}/{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
    }


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, naming every difference that matters, unless two runs are one."""
    changed = [
        f"{part} {_short(found.get(part))} -> {_short(value)}"
        for part, value in wanted.items()
        if not isinstance(value, dict) and found.get(part) != value
    ]
    for part in ("method", "data", "versions"):
        old = found.get(part, {})
        changed += [
            f"{part}.{name} {_short(old.get(name))} -> {_short(value)}"
            for name, value in wanted[part].items()
            if old.get(name) != value
        ]
    changed += [f"train.{change}" for change in _changes(wanted["train"], found.get("train", {}))]
    if changed:
        raise ValueError(
            f"checkpoint {where!r} is of another run ({', '.join(changed)}); use the same "
            "settings, or start anew in another output_dir"
        )


def _changes(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    try:
        before = TrainSettings.model_validate(found)
    except ValueError:
        return ["settings of another version"]
    return TrainSettings.model_validate(wanted).changes(before)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
