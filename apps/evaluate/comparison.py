"""Comparing two results of one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apps.evaluate.numbers.intervals import group_means, mean_interval
from apps.evaluate.result import Images, Result, number, short


@dataclass(frozen=True)
class Difference:
    """How a metric changes from one result to another.

    ``interval`` is that of the mean difference of pictures of the same name and group, which is
    narrower than the single intervals suggest; None where the metric is no mean over such pictures.
    """

    metric: str
    first: float
    second: float
    better: str
    interval: tuple[float, float] | None

    @property
    def change(self) -> float:
        """The second value minus the first."""
        return self.second - self.first


def compare(first: Result, second: Result) -> list[Difference]:
    """Differences of the metrics of two results.

    Raises:
        ValueError: the results follow different protocols; the message names what differs.
    """
    other = list(differing(first.protocol, second.protocol, "protocol"))
    if found := other or list(differing(_settings(first), _settings(second))):
        raise ValueError(
            f"these results cannot be compared: {'; '.join(found)}; evaluate both in the same way"
        )
    return [
        Difference(one.metric, one.value, two.value, one.better, _paired(first, second, one.metric))
        for one, two in zip(first.scores, second.scores, strict=True)
    ]


def markdown_table(rows: list[Difference]) -> str:
    """The differences for people."""
    lines = ["| metric | first | second | change | 95 % interval | better |", "|---|" + "---|" * 5]
    for row in rows:
        bounds = "" if row.interval is None else " to ".join(map(short, row.interval))
        numbers = " | ".join(map(short, (row.first, row.second, row.change)))
        lines.append(f"| {row.metric} | {numbers} | {bounds} | {row.better} |")
    return "\n".join(lines)


def _settings(result: Result) -> dict[str, Any]:
    """What must be equal, as a JSON file has it: a result may come from one or not."""
    metrics = [score.metric for score in result.scores]
    return {**result.to_dict()["settings"], "metrics": metrics}


def differing(first: Any, second: Any, name: str = "") -> Iterator[str]:
    """What is not the same in two nested mappings, a line each.

    Names of networks do not count where the hashes of their weights tell them apart.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        hashed = "weights" in first and "weights" in second
        for key in dict.fromkeys([*first, *second]):
            if key == "name" and hashed:
                continue
            inner = f"{name}.{key}" if name else key
            yield from differing(first.get(key), second.get(key), inner)
    elif first != second:
        yield f"{name} is {first!r} and {second!r}"


def _paired(first: Result, second: Result, metric: str) -> tuple[float, float] | None:
    one, two = _values(first.images, metric), _values(second.images, metric)
    if not one or one.keys() != two.keys():
        return None
    changes = torch.tensor([two[key] - value for key, value in one.items()], dtype=torch.float64)
    means = group_means(changes, [group for _, group in one])
    return mean_interval(means, seed=0) if (~means.isnan()).sum() > 1 else None


def _values(images: Images | None, metric: str) -> dict[tuple[str, str], float]:
    """Numbers of pictures by name and group."""
    if images is None or metric not in images.values:
        return {}
    keys = zip(images.names, images.groups or images.names, strict=True)
    return dict(zip(keys, map(number, images.values[metric]), strict=True))
