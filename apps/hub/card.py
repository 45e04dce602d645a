"""Model cards of what this package writes, for people and for the hub's search."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from guidance import HeadSet
from guidance.evaluators.files import CONFIG, WEIGHTS, load_evaluator
from personalize.core.artifact import TEXTUAL_INVERSION, TOKEN, Artifact

REPOSITORY = "OWNER/NAME"

_RULES = {
    "alignment": "DynamicCFG((1, 2, 4, 8), Alignment(folder))",
    "discriminator": "DynamicCFG((1, 2, 4, 8), Discriminator(folder))",
    "reward": "DynamicCFG((1, 2, 4, 8), Reward(folder))",
    "classifier": "GradientFreeClassifierGuidance(4, LatentClassifier(folder))",
    "minority": "MinorityGuidance(folder)",
}
"""A rule that asks an evaluator of each kind."""


@dataclass(frozen=True)
class Shared:
    """What of a path goes to the hub: files that belong together, and the text of README.md."""

    files: tuple[Path, ...]
    card: str


def card(path: str | Path, repository: str = REPOSITORY) -> str:
    """README.md of a personalization file, of heads that ``hunt`` found, or of an evaluator.

    Args:
        path: of the file, or of the folder that was written.
        repository: id on the hub, for the lines that load it from there.

    Raises:
        ValueError: the path holds none of them, or a broken one.
    """
    return shared(path, repository).card


def shared(path: str | Path, repository: str = REPOSITORY) -> Shared:
    """The files of a path that go to the hub, with their card; see ``card``."""
    path = Path(path)
    if path.suffix == ".json":
        return _heads(path, repository)
    if (path / CONFIG).is_file():
        return _evaluator(path, repository)
    return _learned(path, repository)


def _learned(path: Path, repository: str) -> Shared:
    artifact = Artifact.load(path)
    second = path.with_name(f"{path.stem}_2{path.suffix}")
    alone = (path, second) if second.is_file() else (path,)
    files = tuple(sorted(path.glob("*.safetensors"))) if path.is_dir() else alone
    about = artifact.metadata
    token, base = about.get(TOKEN, ""), about.get("diffusteer.base_model", "")
    ours = f"""from huggingface_hub import snapshot_download
from personalize import load

load(pipe, snapshot_download("{repository}"))
pipe("a photo of {token}")"""
    ways = {"With diffusteer": ours}
    if artifact.kind == TEXTUAL_INVERSION:
        ways = {"With plain diffusers": _diffusers(files, repository)} | ways
    return Shared(
        files,
        _card(
            f"{artifact.kind} of {token}",
            f"Learned on {base or 'an unknown model'}; prompts call it `{token}`.",
            ways,
            {key: text for key, text in about.items() if not key.startswith("modelspec.")},
            tags=[artifact.kind, "text-to-image"],
            library_name="diffusers" if artifact.kind == TEXTUAL_INVERSION else "diffusteer",
            pipeline_tag="text-to-image",
            base_model=_on_hub(base),
            instance_prompt=token,
        ),
    )


def _diffusers(files: Sequence[Path], repository: str) -> str:
    """The lines that load a textual inversion, file by file for each text encoder."""
    own = [file.name for file in files if file.name.startswith("learned_embeds")]
    second = ", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2"
    return "\n".join(
        f'pipe.load_textual_inversion("{repository}", weight_name="{name}"'
        f"{second if name.endswith('_2.safetensors') else ''})"
        for name in own or [file.name for file in files]
    )


def _heads(path: Path, repository: str) -> Shared:
    found = HeadSet.load(path)
    best, picture = found.best(), path.with_suffix(".png")
    names = ", ".join(f"`{layer}:{head}`" for layer, head in best.heads)
    ours = f"""from guidance import HeadSet, SoftPAG, guide
from huggingface_hub import hf_hub_download

heads = HeadSet.load(hf_hub_download("{repository}", "{path.name}")).best()
with guide(pipe, SoftPAG({found.scale:g}, heads=heads, strength={found.strength:g})):
    pipe("a prompt")"""
    about = ("model", "objective", "scale", "strength", "guidance", "call", "prompts", "seeds")
    return Shared(
        (path, picture) if picture.is_file() else (path,),
        _card(
            f"Attention heads for {found.objective}",
            f"Softening {names} took {found.objective} from {found.baseline:.4f} to "
            f"{max(found.scores):.4f} on the prompts of the search. They fit the {found.model} "
            "that they were found on.",
            {"With diffusteer": ours},
            {name: getattr(found, name) for name in about},
            tags=["attention-heads", "text-to-image"],
            library_name="diffusteer",
        ),
    )


def _evaluator(path: Path, repository: str) -> Shared:
    config = load_evaluator(path).config
    rule, model = _RULES[config.kind], str(config.training.get("model", ""))
    names = sorted({*re.findall(r"[A-Z]\w+(?=\()", rule), "guide"})
    ours = f"""from guidance import {", ".join(names)}
from huggingface_hub import snapshot_download

folder = snapshot_download("{repository}")
with guide(pipe, {rule}):
    pipe("a prompt")"""
    return Shared(
        (path / CONFIG, path / WEIGHTS),
        _card(
            f"Evaluator of kind {config.kind}",
            f"Judges what {model or 'a model'} predicts, on the way to a picture; it refuses other "
            "latents than those that it was trained on.",
            {"With diffusteer": ours},
            config.training,
            tags=["evaluator", config.kind],
            library_name="diffusteer",
            base_model=_on_hub(model),
        ),
    )


def _card(
    title: str, summary: str, ways: Mapping[str, str], settings: Mapping[str, Any], **data: Any
) -> str:
    """Front matter, what it is, how to load it, and how it was made."""
    data["tags"] = ["diffusteer", *data["tags"]]
    loads = [f"{name}:\n\n```python\n{code}\n```\n" for name, code in ways.items()]
    rows = [f"- {name}: `{_text(value)}`" for name, value in settings.items()]
    made = ["## How it was made\n", *rows, ""] if rows else []
    front = ModelCardData(**data).to_yaml()
    return "\n".join(
        [f"---\n{front}\n---\n", f"# {title}\n", f"{summary}\n", "## Use\n", *loads, *made]
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _on_hub(model: str) -> str | None:
    """The model as the hub knows it; a shipped one or a folder is unknown there."""
    known = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists()
    return model if known else None
