"""Each kind learns a planted signal, and its score is what it says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from apps.train.kinds import (
    Alignment,
    Classifier,
    Discriminator,
    Kind,
    Reward,
    loss_over,
    numbered,
    ranks,
    scores_by_level,
)
from apps.train.records import Records
from apps.training.state import Recipe
from apps.training.trainer import train
from guidance.evaluators import NetworkSettings, build

COUNT, TEXTS = 256, 12
RECIPE = Recipe(steps=80, batch=64, lr=5e-3, warmup=5)


def planted(real: Tensor, generated: Tensor, level: Tensor | None = None) -> Records:
    """Records of given predictions; those generated grow with the scale."""
    return cast(
        Records,
        SimpleNamespace(
            level=torch.linspace(-2, 2, COUNT) if level is None else level,
            row=torch.arange(COUNT),
            scale=torch.linspace(1, 2, COUNT),
            real=lambda records: real[records],
            generated=lambda records, scale: scale.view(-1, 1, 1, 1) * generated[records],
        ),
    )


def noise(seed: int) -> Tensor:
    return torch.randn(COUNT, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


EVERY = torch.arange(COUNT)
CAPTION = EVERY % TEXTS
TEXT = torch.randn(TEXTS, 6, generator=torch.Generator().manual_seed(9))


def alignment(signal: float) -> Kind:
    of_text = torch.randn(TEXTS, 4, 1, 1, generator=torch.Generator().manual_seed(8))
    seen = planted(noise(0) + 2 * signal * of_text[CAPTION], noise(1))
    return Alignment(seen, EVERY, CAPTION, TEXT, outputs=24)


def discriminator(signal: float) -> Kind:
    return Discriminator(planted(noise(0) + signal, noise(1)), EVERY, (1.0, 1.0))


def reward(signal: float) -> Kind:
    generated, target = noise(1), noise(2)[:, 0, 0, 0]
    generated[:, 1] += signal * target.view(-1, 1, 1)
    return Reward(planted(noise(0), generated), EVERY, target, CAPTION, TEXT)


def classifier(signal: float) -> Kind:
    label = EVERY % 3
    real = noise(0)
    real[EVERY, label] += signal
    label = torch.where(EVERY % 5 == 0, -1, label)
    return Classifier(planted(real, noise(1)), EVERY[label >= 0], label, outputs=3)


KINDS = {
    "alignment": (alignment, 6, 1 / TEXTS, 0.5),
    "discriminator": (discriminator, 0, 0.5, 0.9),
    "reward": (reward, 6, 0.0, 0.7),
    "classifier": (classifier, 0, 0.33, 0.8),
}


@pytest.mark.parametrize("name", KINDS)
def test_learns_what_is_there_and_nothing_else(name: str, tmp_path: Path) -> None:
    make, text, chance, good = KINDS[name]
    for signal in (1.0, 0.0):
        kind = make(signal)
        learned, held = kind.records[kind.records >= 96], kind.records[kind.records < 96]
        torch.manual_seed(0)
        net = build(name, NetworkSettings(4, kind.outputs, text=text, width=12, depth=1))
        work = tmp_path / str(signal)
        train(net, loss_over(kind, learned), RECIPE, len(learned), work, seed=0)
        everywhere = torch.full((COUNT,), 0.5)
        (row,) = scores_by_level(kind, net, everywhere, held, seed=0)
        assert row["count"] == len(held)
        assert row["score"] >= good if signal else abs(row["score"] - chance) < 0.2


def test_scores_are_by_noise_over_signal() -> None:
    class Fixed:
        def judged(self, net: Any, records: Tensor, generator: torch.Generator) -> Tensor:
            return records.float()

        def score(self, judged: Tensor) -> float:
            return float(judged.sum())

    level = torch.tensor([float("-inf"), 0.1, 0.3, 1.0, 1.9, 900.0, 0.3]).log()
    level[0] = -torch.inf
    found = scores_by_level(cast(Kind, Fixed()), None, level, torch.arange(6), 0)
    assert [(*row["sigma"], row["count"], row["score"]) for row in found] == [
        (0.0, 0.25, 2, 1.0),
        (0.25, 0.5, 1, 2.0),
        (0.5, 1.0, 1, 3.0),
        (1.0, 2.0, 1, 4.0),
        (4.0, None, 1, 5.0),
    ]


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    judged = torch.tensor([[3.0, 1.0], [2.0, 2.0], [0.0, 5.0]])
    real, own = judged.unbind(1)
    pairs = [(r > o) + 0.5 * (r == o) for r in real.tolist() for o in own.tolist()]
    kind = Discriminator(planted(noise(0), noise(1)), EVERY, (1.0, 1.0))
    assert kind.score(judged) == pytest.approx(sum(pairs) / 9)


def test_rank_correlation_ignores_the_scale() -> None:
    kind = reward(1.0)
    x = torch.tensor([0.1, 3.0, -2.0, 0.5])
    assert kind.score(torch.stack([x, x**3], 1)) == pytest.approx(1.0)
    assert kind.score(torch.stack([x, -x], 1)) == pytest.approx(-1.0)
    assert ranks(torch.tensor([5.0, 1.0, 5.0])).tolist() == [1.5, 0.0, 1.5]


def test_equal_texts_have_one_number() -> None:
    texts, numbers = numbered(["b", "a", "b"])
    assert (texts, numbers.tolist()) == (["b", "a"], [0, 1, 0])
