"""What each kind of evaluator learns from records, and how it does on pictures held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.train.records import Records
from apps.training.batch import Batch, gathered
from apps.training.contrastive import contrastive_loss
from guidance.evaluators import AlignmentNet

RIVALS = 31
"""Captions of other pictures that an alignment evaluator has to tell from the right one."""

_CHUNK = 512


class Kind(Protocol):
    """A kind of evaluator at its work."""

    @property
    def measure(self) -> str:
        """What ``score`` is."""
        ...

    @property
    def outputs(self) -> int:
        """Of the network."""
        ...

    @property
    def records(self) -> Tensor:
        """Numbers of the records that it can learn from."""
        ...

    def loss(self, net: Any, batch: Batch, records: Tensor) -> Tensor:
        """Loss over records ``(n,)`` of a batch: a mean over them, or of ``gathered`` rows."""
        ...

    def judged(self, net: Any, records: Tensor, generator: torch.Generator) -> Tensor:
        """What ``score`` needs of each of these records ``(n, ...)``."""
        ...

    def score(self, judged: Tensor) -> float:
        """How good the network is on records that were judged."""
        ...


@dataclass(frozen=True)
class Alignment:
    """Real pictures in noise belong to their own captions, as in CLIP.

    Args:
        seen: predictions.
        records: those with a caption.
        caption: number of the caption of each picture, equal for equal ones.
        text: features of each caption.
        outputs: width of the embedding.
    """

    seen: Records
    records: Tensor
    caption: Tensor
    text: Tensor
    outputs: int
    measure: str = f"share of own captions found among {RIVALS} others"

    def loss(self, net: AlignmentNet, batch: Batch, records: Tensor) -> Tensor:
        device = net.scale.device
        captions = self.caption[self.seen.row[records]]
        pictures = _judged(net, self.seen.real(records), self.seen.level[records])
        texts = net.embed_text(self.text[captions].to(device))
        every = gathered(captions.to(device))
        same = (every[:, None] == every[None, :]).float()
        return contrastive_loss(gathered(pictures), gathered(texts), net.scale, same)

    def judged(self, net: AlignmentNet, records: Tensor, generator: torch.Generator) -> Tensor:
        """Whether the own caption is the best of some, for each record."""
        own = self.caption[self.seen.row[records]]
        others = own.unique()
        picked = others[torch.randint(len(others), (len(own), RIVALS), generator=generator)]
        texts = net.embed_text(self.text[others].to(net.scale.device))
        pictures = _judged(net, self.seen.real(records), self.seen.level[records])
        scores = (pictures @ texts.T).cpu()
        own_score = scores.gather(1, torch.searchsorted(others, own)[:, None])
        rivals = scores.gather(1, torch.searchsorted(others, picked))
        return ((own_score > rivals) | (picked == own[:, None])).all(1).float()

    def score(self, judged: Tensor) -> float:
        return float(judged.mean())


@dataclass(frozen=True)
class Discriminator:
    """Real pictures in noise against the model's own, at any guidance scale.

    Args:
        seen: predictions.
        records: all of them.
        scales: lowest and highest guidance scale of the model's own.
    """

    seen: Records
    records: Tensor
    scales: tuple[float, float]
    outputs: int = 1
    measure: str = "area under the ROC curve"

    def _both(self, net: Any, records: Tensor, share: Tensor) -> Tensor:
        """Logits of the real and of the generated side of records, ``(n, 2)``."""
        low, high = self.scales
        own = self.seen.generated(records, low + (high - low) * share)
        both = torch.cat([self.seen.real(records), own])
        level = self.seen.level[records].repeat(2)
        return _judged(net, both, level)[:, 0].view(2, -1).T

    def loss(self, net: Any, batch: Batch, records: Tensor) -> Tensor:
        real, own = self._both(net, records, batch.rand(1)[:, 0]).unbind(1)
        return (F.softplus(-real) + F.softplus(own)).mean() / 2

    def judged(self, net: Any, records: Tensor, generator: torch.Generator) -> Tensor:
        return self._both(net, records, torch.rand(len(records), generator=generator)).cpu()

    def score(self, judged: Tensor) -> float:
        real, own = judged.unbind(1)
        order = ranks(torch.cat([real, own]))[: len(real)]
        return float((order.sum() - len(real) * (len(real) - 1) / 2) / (len(real) * len(own)))


@dataclass(frozen=True)
class Reward:
    """What a scorer says of the finished picture, foreseen on the way to it.

    Args:
        seen: predictions.
        records: those of pictures with a score.
        target: standardised score of each picture.
        caption, text: as for ``Alignment``.
    """

    seen: Records
    records: Tensor
    target: Tensor
    caption: Tensor
    text: Tensor
    outputs: int = 1
    measure: str = "rank correlation with the score of the finished picture"

    def _foreseen(self, net: Any, records: Tensor) -> Tensor:
        pictures = self.seen.generated(records, self.seen.scale[records])
        text = self.text[self.caption[self.seen.row[records]]]
        return _judged(net, pictures, self.seen.level[records], text)[:, 0]

    def loss(self, net: Any, batch: Batch, records: Tensor) -> Tensor:
        foreseen = self._foreseen(net, records)
        return F.mse_loss(foreseen, self.target[self.seen.row[records]].to(foreseen.device))

    def judged(self, net: Any, records: Tensor, generator: torch.Generator) -> Tensor:
        foreseen = self._foreseen(net, records).cpu()
        return torch.stack([foreseen, self.target[self.seen.row[records]]], 1)

    def score(self, judged: Tensor) -> float:
        both = torch.stack([ranks(side) for side in judged.unbind(1)])
        return float(torch.corrcoef(both)[0, 1])


@dataclass(frozen=True)
class Classifier:
    """The class of real pictures in noise.

    Args:
        seen: predictions.
        records: those of pictures with a label.
        label: number of the class of each picture, -1 without.
        outputs: number of classes.
    """

    seen: Records
    records: Tensor
    label: Tensor
    outputs: int
    measure: str = "accuracy"

    def loss(self, net: Any, batch: Batch, records: Tensor) -> Tensor:
        logits = self._logits(net, records)
        return F.cross_entropy(logits, self.label[self.seen.row[records]].to(logits.device))

    def _logits(self, net: Any, records: Tensor) -> Tensor:
        return _judged(net, self.seen.real(records), self.seen.level[records])

    def judged(self, net: Any, records: Tensor, generator: torch.Generator) -> Tensor:
        """Whether the class is right, for each record."""
        found = self._logits(net, records).argmax(1).cpu()
        return (found == self.label[self.seen.row[records]]).float()

    def score(self, judged: Tensor) -> float:
        return float(judged.mean())


LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, float("inf"))
"""Bounds of ``sigma / alpha`` between which scores are given."""


@torch.no_grad()
def scores_by_level(
    kind: Kind, net: Any, level: Tensor, records: Tensor, seed: int
) -> list[dict[str, Any]]:
    """Score of a trained network on held-out records, by noise over signal.

    Args:
        kind: what it was trained for.
        net: the network, in eval mode.
        level: ``log(sigma / alpha)`` of all records.
        records: those to measure on.
        seed: of random choices.

    Returns:
        For each range ``sigma`` of noise over signal that has records, their number ``count`` and
        ``score``; None where it has no meaning, as a correlation with a constant.
    """
    generator = torch.Generator().manual_seed(seed)
    judged = torch.cat([kind.judged(net, part, generator) for part in records.split(_CHUNK)])
    noise = level[records].exp()
    rows = []
    for low, high in pairwise(LEVELS):
        inside = (noise > low) & (noise <= high) if low else noise <= high
        if inside.any():
            score = kind.score(judged[inside])
            rows.append(
                {
                    "sigma": [low, high if high < float("inf") else None],
                    "count": int(inside.sum()),
                    "score": round(score, 4) if score == score else None,
                }
            )
    return rows


def ranks(values: Tensor) -> Tensor:
    """Rank of each of values (N,) from 0, equal ones share their mean rank."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0)
    return ((last - count + last - 1) / 2)[place].double()


def _judged(net: Any, x: Tensor, level: Tensor, text: Tensor | None = None) -> Tensor:
    """The network's outputs, on its own device."""
    device = next(net.parameters()).device
    known = () if text is None else (text.to(device),)
    return net(x.to(device), level.to(device), *known)


def loss_over(kind: Kind, records: Tensor) -> Callable[[Any, Batch], Tensor]:
    """The loss of a batch whose items are these records."""

    def loss(net: Any, batch: Batch) -> Tensor:
        return kind.loss(net, batch, records[batch.indices])

    return loss


def numbered(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Distinct texts in the order of their first use, and the number of each text ``(N,)``."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), torch.tensor(places)
