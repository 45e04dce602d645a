"""The settings that a picture carries: written into PNG files, and read back into the form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from apps.demo.controls import offers
from apps.demo.forms import DrawRequest, Request, checked
from apps.demo.model import OWN_SCHEDULER, Model, Models
from apps.demo.stack import build
from apps.rules import rule_settings
from apps.sample import common_settings
from apps.schedulers import DIFFUSION
from apps.settings import DrawSettings
from guidance import Rule


def settings_of(request: Request, model: Model, rule: Rule | None) -> dict[str, Any]:
    """What all pictures of a request share, as ``apps.pictures.parameters_text`` takes it."""
    settings = DrawSettings(
        prompts=(request.prompt,),
        model=model.name,
        negative_prompt=request.negative or None,
        steps=request.steps,
    )
    common = common_settings(model.pipe, settings) | rule_settings(rule)
    return {"prompt": request.prompt} | common


def read_request(path: str | Path, models: Models) -> DrawRequest:
    """The request that draws a picture again, from the settings in its file.

    Raises:
        ValueError: the file is no picture, carries no settings of ours, or asks for what the demo
            does not have.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.text.get("diffusteer")  # type: ignore[attr-defined]
        found = json.loads(text) if text else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        found = None
    if not isinstance(found, Mapping):
        raise ValueError(
            "this picture carries no settings: take a PNG file that diffusteer wrote, as downloaded"
        )
    try:
        model = models[found["model"]]
        values = {
            "model": model.name,
            "prompt": found["prompt"],
            "negative": found["negative_prompt"] or "",
            "steps": found["steps"],
            "seed": found["seed"],
            "pictures": 1,
            "scheduler": _scheduler(found["scheduler"], model),
            "stack": _items(found["guidance_config"]),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the settings in this picture cannot be read: {error!r:.80}") from error
    request = checked(DrawRequest, values)
    build(request.stack, model)
    return request


def _scheduler(name: str, model: Model) -> str:
    """The short name of a class of schedulers."""
    if name == type(model.pipe.scheduler).__name__:
        return OWN_SCHEDULER
    short = {cls.removesuffix("Scheduler"): key for key, cls in DIFFUSION.items()}
    return short.get(name.removesuffix("Scheduler"), name)


def _items(config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The stack of a rule's settings, as ``Rule.to_config`` gives them."""
    if config is None:
        return []
    rules = config["rules"] if config["rule"] == "Chain" else [config]
    return [_item(dict(rule)) for rule in rules]


def _item(config: dict[str, Any]) -> dict[str, Any]:
    name, limits = config.pop("rule"), config.pop("between", [])
    if name not in offers():
        raise ValueError(f"the demo has no rule {name!r:.60}")
    known = {control.name: control.kind for control in offers()[name].controls}
    if name == "PerpNeg":
        weights = config["weights"]
        each = weights if isinstance(weights, list) else [weights] * len(config["negatives"])
        config["negatives"] = [list(pair) for pair in zip(config["negatives"], each, strict=True)]
    if name == "AdaptiveGuidance" and (config["rule_or_scale"] or {}).get("rule") == "CFG":
        config["rule_or_scale"] = config["rule_or_scale"]["scale"]
    if name == "AutoGuidance" and isinstance(config["weak"], list):
        config["weak"] = f"without {', '.join(config['weak'])}"
    settings = {key: value for key, value in config.items() if key in known}
    between = [0.0, 1.0]
    if limits:
        if len(limits) > 1 or "fraction" not in limits[0]:
            raise ValueError(f"the demo cannot show the limits of {name}: {limits!r:.60}")
        between = list(limits[0]["fraction"])
    return {"rule": name, "settings": settings, "between": between}
