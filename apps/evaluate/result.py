"""Results of evaluations: numbers with all that one must know to compare them, as JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apps.pictures import write_file

FORMAT = "diffusteer-evaluation-1"


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        metric: its name.
        value: nan where nothing could be measured.
        interval: bounds of the 95 % interval, None where there is none.
        n: how many items it was measured on.
        about: what it is, on which scale, and what the interval resamples.
        better: ``higher``, ``lower``, or ``neither``.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int
    about: str
    better: str = "higher"


@dataclass(frozen=True)
class Images:
    """Numbers of single pictures.

    Attributes:
        folder: where they are, as it was given.
        names: relative to it.
        values: per metric one number for each picture, None where it does not apply.
        texts: their prompts, where there are any.
        groups: what belongs together, such as the pictures of one prompt: each group counts the
            same in the scores; empty where each picture stands for itself.
    """

    folder: str
    names: tuple[str, ...]
    values: Mapping[str, Sequence[float | None]]
    texts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        protocol: name of the evaluation.
        settings: all that must be equal in two results that are compared.
        scores: the numbers, by metric.
        images: numbers of single pictures, None where the protocol has none.
        left_out: pictures that could not be read, with the reason.
        provenance: command, device, versions.
    """

    protocol: str
    settings: Mapping[str, Any]
    scores: tuple[Score, ...]
    images: Images | None
    left_out: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Score:
        for score in self.scores:
            if score.metric == metric:
                return score
        raise KeyError(
            f"no metric {metric!r}; measured: {', '.join(s.metric for s in self.scores)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: nan becomes null."""
        return _without_nan({"format": FORMAT, **asdict(self)})

    def write(self, path: Path) -> None:
        """Write the JSON file, its single pictures in one line; one of that name is replaced."""
        content = self.to_dict()
        images = json.dumps(content.pop("images"), allow_nan=False)
        text = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, f'{text},\n "images": {images}\n}}\n'.encode())

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a JSON file.

        Raises:
            ValueError: the file cannot be read or is no result.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"format is not {FORMAT}")
            images = content.pop("images")
            scores = [
                Score(**score | {"value": number(score["value"]), "interval": _pair(score)})
                for score in content.pop("scores")
            ]
            return cls(
                **content,
                scores=tuple(scores),
                images=images and Images(**images | {k: tuple(images[k]) for k in _LISTS}),
            )
        except OSError as error:
            raise ValueError(f"cannot read result {str(path)!r}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r} is no result of diffusteer evaluate ({error}); give a JSON file "
                "that it wrote"
            ) from error

    def __str__(self) -> str:
        lines = ["| metric | value | 95 % interval | n |", "|---|---|---|---|"]
        for score in self.scores:
            bounds = "" if score.interval is None else " to ".join(map(short, score.interval))
            lines.append(f"| {score.metric} | {short(score.value)} | {bounds} | {score.n} |")
        return "\n".join(lines)


_LISTS = ("names", "texts", "groups")


def short(value: float) -> str:
    """A number for people."""
    return f"{value:.4g}"


def number(value: float | None) -> float:
    """A number of a JSON file, where null stands for nan."""
    return math.nan if value is None else value


def _pair(score: Mapping[str, Any]) -> tuple[float, float] | None:
    if score["interval"] is None:
        return None
    low, high = score["interval"]
    return number(low), number(high)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
