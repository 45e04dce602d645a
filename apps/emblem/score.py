"""Ground-truth scores of Emblem pictures, read by a classifier of the world's attributes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import ResNetForImageClassification

from apps.emblem.world import (
    ALL_SHAPES,
    ALL_TEXTURES,
    COLOURS,
    SIZES,
    STYLES,
    Emblem,
    Scene,
    parse,
    rarity,
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ALL_SHAPES,
    "colour": COLOURS,
    "texture": ALL_TEXTURES,
    "size": SIZES,
    "style": STYLES,
}

HEADS: dict[str, tuple[str, ...]] = {
    "recognisable": ("no", "yes"),
    "count": ("one", "two"),
    "background": COLOURS,
    **{f"first.{name}": values for name, values in ATTRIBUTES.items()},
    **{f"second.{name}": values for name, values in ATTRIBUTES.items()},
}
"""Classifier heads in the order of its labels; ``first`` is the only or the left emblem."""


def labels(scene: Scene) -> list[int]:
    """Class number per head; -1 for the second emblem where there is none."""
    numbers = [1, len(scene.emblems) - 1, COLOURS.index(scene.background or "")]
    for slot in range(2):
        for name, values in ATTRIBUTES.items():
            known = slot < len(scene.emblems)
            numbers.append(values.index(getattr(scene.emblems[slot], name)) if known else -1)
    return numbers


def split_heads(logits: Tensor) -> dict[str, Tensor]:
    """Logits (B, labels) as one tensor (B, classes) per head."""
    sizes = [len(values) for values in HEADS.values()]
    return dict(zip(HEADS, logits.split(sizes, dim=1), strict=True))


@dataclass(frozen=True)
class Reading:
    """What the classifier reads in B pictures.

    Attributes:
        probabilities: per head (B, classes), rows sum to 1.
        features: penultimate features (B, D) for FID and KID.
    """

    probabilities: dict[str, Tensor]
    features: Tensor

    def recognisable(self) -> Tensor:
        """bool (B,): whether the picture shows emblems at all."""
        return self.probabilities["recognisable"][:, 1] > 0.5

    def scenes(self) -> list[Scene]:
        """The likeliest scene of each picture."""
        best = {head: p.argmax(dim=1).tolist() for head, p in self.probabilities.items()}

        def emblem(slot: str, row: int) -> Emblem:
            return Emblem(
                **{n: values[best[f"{slot}.{n}"][row]] for n, values in ATTRIBUTES.items()}
            )

        return [
            Scene(
                (emblem("first", row), emblem("second", row))[: count + 1],
                COLOURS[best["background"][row]],
            )
            for row, count in enumerate(best["count"])
        ]


@dataclass(frozen=True)
class Scores:
    """Scores of a set of pictures; shares in [0, 1].

    Attributes:
        prompt_accuracy: share with every stated attribute and the number of emblems right.
        attribute_accuracy: per attribute, share right among the pictures whose prompt states it.
        validity: share of recognisable pictures.
        rarity: mean ``-log p`` of the recognisable scenes that the world can show, in nats.
        diversity: entropy of each attribute over the recognisable pictures, in nats.
    """

    prompt_accuracy: float
    attribute_accuracy: dict[str, float]
    validity: float
    rarity: float
    diversity: dict[str, float]


def stated(scene: Scene) -> Iterator[tuple[str, int, str]]:
    """What a parsed prompt states, as (attribute, emblem number, value)."""
    if scene.background is not None:
        yield "background", 0, scene.background
    for slot, emblem in enumerate(scene.emblems):
        for name in ATTRIBUTES:
            value = getattr(emblem, name)
            if value is not None:
                yield name, slot, value


class Scorer:
    """Reads and scores pictures with the shipped classifier, or another of the same labels."""

    def __init__(self, classifier: ResNetForImageClassification, device: str = "cpu") -> None:
        expected = [f"{head}={value}" for head, values in HEADS.items() for value in values]
        found = [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
        if found != expected:
            raise ValueError(
                f"classifier has {len(found)} labels that are not those of this world "
                f"({len(expected)}); train it with `python -m apps.emblem train classifier`"
            )
        self.classifier = classifier.to(device).float().eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu") -> "Scorer":
        """Load the classifier from a ``save_pretrained`` folder."""
        return cls(ResNetForImageClassification.from_pretrained(path), device)

    def read(self, images: Tensor, batch: int = 256) -> Reading:
        """Read pictures (B, 3, 64, 64) in [-1, 1]."""
        return self.tell(self.features(images, batch))

    @torch.no_grad()
    def features(self, images: Tensor, batch: int = 256) -> Tensor:
        """Penultimate features (B, D) of pictures (B, 3, 64, 64) in [-1, 1]."""
        if images.ndim != 4 or images.shape[1:] != (3, 64, 64):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, 64, 64)")
        parts = images.split(batch)
        device = self.classifier.device
        hidden = [self.classifier.resnet(x.to(device).float()).pooler_output for x in parts]
        return torch.cat(hidden).flatten(1).cpu()

    @torch.no_grad()
    def tell(self, features: Tensor) -> Reading:
        """What penultimate features (B, D) say."""
        logits = self.classifier.classifier(features.to(self.classifier.device)).cpu()
        heads = split_heads(logits)
        return Reading({h: part.softmax(dim=1) for h, part in heads.items()}, features)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Score pictures (B, 3, 64, 64) in [-1, 1] against their B prompts."""
        if len(images) != len(prompts):
            raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts")
        return summarise(self.read(images), [parse(prompt) for prompt in prompts])


def right(reading: Reading, wanted: Sequence[Scene]) -> list[bool]:
    """Whether each picture is recognisable and shows all that its prompt states."""
    return [
        ok
        and len(scene.emblems) == len(goal.emblems)
        and all(shown(scene, name, slot) == value for name, slot, value in stated(goal))
        for ok, scene, goal in zip(
            reading.recognisable().tolist(), reading.scenes(), wanted, strict=True
        )
    ]


def shown(scene: Scene, name: str, slot: int) -> str | None:
    """The value of an attribute in a scene; None for an emblem that is not there."""
    if name == "background":
        return scene.background
    return getattr(scene.emblems[slot], name) if slot < len(scene.emblems) else None


def judge(reading: Reading, wanted: Sequence[Scene]) -> dict[str, list[float]]:
    """Numbers of each picture: ``valid``, ``accuracy``, and by attribute.

    ``valid`` is 1 where the picture shows emblems at all, ``accuracy`` where all that its prompt
    states is right; an attribute's number is the share of its statements that are right, nan
    without one.
    """
    told = reading.recognisable().tolist()
    found: dict[str, list[float]] = {
        "valid": [float(ok) for ok in told],
        "accuracy": [float(ok) for ok in right(reading, wanted)],
        **{name: [] for name in ("background", *ATTRIBUTES)},
    }
    for ok, scene, goal in zip(told, reading.scenes(), wanted, strict=True):
        hits: dict[str, list[bool]] = {name: [] for name in ("background", *ATTRIBUTES)}
        for name, slot, value in stated(goal):
            hits[name].append(ok and shown(scene, name, slot) == value)
        for name, own in hits.items():
            found[name].append(sum(own) / len(own) if own else float("nan"))
    return found


def summarise(reading: Reading, wanted: Sequence[Scene]) -> Scores:
    """Scores of a reading against what each picture's prompt states."""
    told, seen = reading.recognisable().tolist(), reading.scenes()
    hits: dict[str, list[bool]] = {name: [] for name in ("background", *ATTRIBUTES)}
    for ok, scene, goal in zip(told, seen, wanted, strict=True):
        for name, slot, value in stated(goal):
            hits[name].append(ok and shown(scene, name, slot) == value)
    valid = [scene for ok, scene in zip(told, seen, strict=True) if ok]
    rarities = [r for r in map(rarity, valid) if r != float("inf")]
    return Scores(
        prompt_accuracy=_mean(right(reading, wanted)),
        attribute_accuracy={name: _mean(found) for name, found in hits.items() if found},
        validity=_mean(told),
        rarity=_mean(rarities),
        diversity={
            "background": entropy([scene.background for scene in valid]),
            **{n: entropy([getattr(s.emblems[0], n) for s in valid]) for n in ATTRIBUTES},
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def entropy(values: Sequence[str | None]) -> float:
    """Entropy of the shares of the values, in nats; nan of none."""
    counts = torch.tensor([values.count(v) for v in set(values)], dtype=torch.float64)
    p = counts / counts.sum()
    return float(torch.special.entr(p).sum()) if len(values) else float("nan")
