"""``HeadSet``: attention heads that a search found, how it found them, and which model they fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any

from torch import nn

from guidance.core.fingerprint import weights_hash
from guidance.core.layers import SELF, layers_of

Head = tuple[str, int]
"""Layer and number of an attention head."""

Heads = tuple[Head, ...]

FORMAT = {"format": "diffusteer heads", "version": 1}


@dataclass(frozen=True)
class HeadSet:
    """Heads for ``SoftPAG(heads=...)``, found by ``guidance.head_hunter.hunt``.

    Attributes:
        model: class name of the denoiser.
        weights: see ``weights_hash``.
        layers: number of heads of each self-attention layer of the denoiser.
        objective: name of what was maximised.
        scale, strength: of ``SoftPAG`` in the search.
        guidance: rule that acted beside it, as text; None without one.
        call: further arguments of the pipeline's call, as JSON types.
        prompts, seeds: each prompt was drawn with each seed.
        baseline: mean score with no head softened.
        rounds: for each round, the mean score of each head together with those found before.

    Raises:
        ValueError: no round, a head that no layer has or that was found before, a score that is not
            finite.
    """

    model: str
    weights: str
    layers: Mapping[str, int]
    objective: str
    scale: float
    strength: float
    guidance: str | None
    call: Mapping[str, Any]
    prompts: tuple[str | int, ...]
    seeds: tuple[int, ...]
    baseline: float
    rounds: tuple[Mapping[Head, float], ...]

    def __post_init__(self) -> None:
        if not self.rounds or not all(self.rounds):
            raise ValueError(f"each round needs a scored head, found {self.rounds!r:.80}")
        numbers = [
            self.baseline,
            self.scale,
            self.strength,
            *(score for scored in self.rounds for score in scored.values()),
        ]
        if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
            raise ValueError("a score, the scale or the strength is no finite number")
        for count, scored in enumerate(self.rounds):
            for layer, head in scored:
                if type(head) is not int or not 0 <= head < self.layers.get(layer, 0):
                    raise ValueError(f"no layer has head {layer}:{head}")
            if again := set(self.heads[:count]) & scored.keys():
                layer, head = min(again)
                raise ValueError(f"round {count + 1} tries {layer}:{head}, which is found already")

    @property
    def heads(self) -> Heads:
        """The heads in the order found: of each round the best, of equals the first."""
        return tuple(max(scored, key=scored.__getitem__) for scored in self.rounds)

    @property
    def scores(self) -> tuple[float, ...]:
        """Mean score of the first head, the first two heads, and so on."""
        return tuple(map(max, (scored.values() for scored in self.rounds)))

    def best(self) -> HeadSet:
        """As many heads as score highest together: a later head can make a set worse."""
        count = self.scores.index(max(self.scores)) + 1
        return HeadSet(**vars(self) | {"rounds": self.rounds[:count]})

    def check(self, model: nn.Module) -> None:
        """Raise ValueError unless a denoiser has these layers and heads; warn of other weights."""
        found = layers_and_heads(model)
        for layer in (*self.layers, *found):
            before, here = self.layers.get(layer, 0), found.get(layer, 0)
            if before != here:
                raise ValueError(
                    f"the heads do not fit: {layer} has {before} heads in the {self.model} that "
                    f"they were found on, and {here} in this {type(model).__name__}; search anew"
                )
        if weights_hash(model) != self.weights:
            warnings.warn(
                f"the heads were found on a {self.model} with other weights; they may do less here",
                stacklevel=2,
            )

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types, with the format's name and the heads first."""
        rounds = [
            [[layer, head, score] for (layer, head), score in scored.items()]
            for scored in self.rounds
        ]
        heads = [list(head) for head in self.heads]
        return {**FORMAT, "heads": heads, **vars(self), "rounds": rounds}

    def save(self, path: str | Path) -> None:
        """Write a JSON file that ``load`` reads; it is never seen half written."""
        write_whole(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def load(path: str | Path) -> HeadSet:
        """Read what ``save`` wrote; raises ValueError for any other file."""
        try:
            return _from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"{str(path)!r} must be a file that HeadSet.save or `diffusteer hunt` wrote, but "
                f"it cannot be used ({reason})"
            ) from error

    def plot(self, path: str | Path) -> None:
        """Draw what each head alone gains, as layers x heads, the heads found numbered in order."""
        from matplotlib.figure import Figure

        alone, widest = self.rounds[0], max(self.layers.values())
        layers = [layer for layer in self.layers if any(layer == tried for tried, _ in alone)]
        gains = [
            [alone.get((layer, head), nan) - self.baseline for head in range(widest)]
            for layer in layers
        ]
        most = max(abs(score - self.baseline) for score in alone.values()) or 1.0
        size = (max(6.0, 3 + 0.45 * widest), max(2.5, 1.2 + 0.35 * len(layers)))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor("lightgrey")
        drawn = axes.imshow(gains, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        for order, (layer, head) in enumerate(self.heads, 1):
            shade = abs(gains[layers.index(layer)][head]) / most
            mark = axes.text(head, layers.index(layer), str(order), ha="center", va="center")
            mark.set(color="white" if shade > 0.6 else "black", weight="bold")
        axes.set_xticks(range(widest))
        axes.set_yticks(range(len(layers)), layers, fontsize="small")
        axes.set(xlabel="head")
        figure.suptitle(f"{self.objective}: gain of each head alone")
        figure.colorbar(drawn, label=f"score - {self.baseline:.4g}")
        figure.savefig(path)


def layers_and_heads(model: nn.Module) -> dict[str, int]:
    """Number of heads of each layer of a denoiser whose heads can be selected."""
    return {layer.path: layer.heads for layer in layers_of(model) if layer.kind in SELF}


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _from_dict(values: Any) -> HeadSet:
    if not isinstance(values, dict) or values.get("format") != FORMAT["format"]:
        raise ValueError("it holds something else")
    if values.get("version") != FORMAT["version"]:
        raise ValueError(f"its version is {values.get('version')}, expected {FORMAT['version']}")
    expected = {*FORMAT, "heads", *(item.name for item in fields(HeadSet))}
    if odd := expected ^ values.keys():
        name = min(odd)
        raise ValueError(f"it lacks {name}" if name in expected else f"it has an unknown {name}")
    own = {name: value for name, value in values.items() if name not in (*FORMAT, "heads")}
    rounds = [{(layer, head): score for layer, head, score in scored} for scored in own["rounds"]]
    for name, kind in (("model", str), ("weights", str), ("objective", str), ("layers", dict)):
        if not isinstance(own[name], kind):
            raise ValueError(f"its {name} is {own[name]!r:.40}")
    for name in ("prompts", "seeds"):
        if not isinstance(own[name], Sequence) or isinstance(own[name], str):
            raise ValueError(f"its {name} are {own[name]!r:.40}")
        own[name] = tuple(own[name])
    found = HeadSet(**own | {"rounds": tuple(rounds)})
    if [list(head) for head in found.heads] != values["heads"]:
        raise ValueError("its heads are not the best of its rounds")
    return found
