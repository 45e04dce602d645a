"""Scores against closed forms, loops over all pairs and torchmetrics."""

import itertools
import math
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apps.evaluate.metrics import (
    cp_clip,
    cp_clip_matched,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    ti_clip,
    vendi_score,
)
from tests.apps.evaluate.numbers.test_moments import draw, textbook
from tests.apps.evaluate.numbers.test_neighbours import slow_inside

SETS: list[Callable[..., Any]] = [
    frechet_distance,
    kernel_distance,
    precision_recall,
    density_coverage,
]


def slow_kernel(real: Tensor, fake: Tensor) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return ((x @ y).item() / len(x) + 1) ** 3

    own = [
        statistics.fmean(k(x, y) for x, y in itertools.permutations(rows, 2))
        for rows in (real, fake)
    ]
    return sum(own) - 2 * statistics.fmean(k(x, y) for x in real for y in fake)


def torchmetrics_score(path: str, real: Tensor, fake: Tensor, **settings: Any) -> float:
    """A metric of torchmetrics on features that are there already."""
    module, name = path.split(":")
    make = getattr(pytest.importorskip(f"torchmetrics.image.{module}"), name)
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = make(feature=identity, normalize=True, **settings)
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


@pytest.mark.parametrize("seed", range(3))
def test_the_frechet_distance_is_that_of_scipy_and_torchmetrics(seed: int) -> None:
    real, fake = draw(90, 8, seed), draw(70, 8, seed + 50) * 1.3
    found = frechet_distance(real, fake)
    assert found == pytest.approx(textbook(real, fake), rel=1e-9)
    expected = torchmetrics_score("fid:FrechetInceptionDistance", real, fake)
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_distance_is_that_of_all_pairs_and_torchmetrics(seed: int) -> None:
    real, fake = draw(40, 8, seed), draw(40, 8, seed + 50)
    found = kernel_distance(real, fake)
    assert found == pytest.approx(slow_kernel(real, fake), rel=1e-10)
    expected = torchmetrics_score(
        "kid:KernelInceptionDistance", real, fake, subsets=1, subset_size=len(real)
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_of_sets_of_other_sizes_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("apps.evaluate.numbers.arrays.BLOCK", 6)
    real, fake = draw(20, 4), draw(9, 4, seed=1)
    assert kernel_distance(real, fake) == pytest.approx(slow_kernel(real, fake), rel=1e-10)
    assert kernel_distance(fake, real) == pytest.approx(kernel_distance(real, fake), rel=1e-10)


def test_the_kernel_distance_of_two_steps_is_nine_and_a_half() -> None:
    """(1 + 27) - 2 (1 + 1 + 8 + 27) / 4."""
    assert kernel_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == 9.5


def test_the_kernel_distance_is_unbiased() -> None:
    """Over all ordered draws of 2 and 2 from a die and a loaded one, its mean is the exact one."""
    die, loaded = [0.0, 1.0, 2.0], [1.0, 1.0, 3.0]

    def mean(first: list[float], second: list[float]) -> float:
        pairs = [itertools.product(law, repeat=2) for law in (first, second)]
        return statistics.fmean(
            kernel_distance(torch.tensor([x]).T, torch.tensor([y]).T)
            for x, y in itertools.product(*pairs)
        )

    def kernel(first: list[float], second: list[float]) -> float:
        return statistics.fmean((x * y + 1) ** 3 for x in first for y in second)

    exact = kernel(die, die) + kernel(loaded, loaded) - 2 * kernel(die, loaded)
    assert mean(die, loaded) == pytest.approx(exact, rel=1e-12)
    assert mean(die, die) == pytest.approx(0, abs=1e-12)


def test_the_kernel_distance_of_equal_laws_has_both_signs() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [
        kernel_distance(*torch.randn(2, 30, 4, generator=generator, dtype=torch.float64))
        for _ in range(300)
    ]
    error = statistics.stdev(found) / 300**0.5
    assert abs(statistics.fmean(found)) < 3 * error
    assert min(found) < -error < error < max(found)


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_density_and_coverage_are_those_of_all_pairs(seed: int) -> None:
    real, fake = draw(24, 3, seed), draw(17, 3, seed) * 0.7 + 1
    near_real, near_fake = slow_inside(fake, real, 3), slow_inside(real, fake, 3)
    expected = (near_real.any(1).double().mean().item(), near_fake.any(1).double().mean().item())
    assert precision_recall(real, fake, k=3) == pytest.approx(expected)
    near = slow_inside(fake, real, 5).double()
    expected = (near.sum(1).mean().item() / 5, near.amax(0).mean().item())
    assert density_coverage(real, fake) == pytest.approx(expected)


def test_a_set_is_near_itself_and_not_near_a_far_one() -> None:
    real = draw(40, 3)
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real) == (6 / 5, 1)  # its own ball and those of 5 on average
    assert precision_recall(real, real + 1e3) == (0, 0)
    assert density_coverage(real, real + 1e3) == (0, 0)


def test_one_mode_of_two_is_precise_and_half_recalled() -> None:
    one = draw(30, 2)
    real, fake = torch.cat([one, one + 1e3]), one
    assert precision_recall(real, fake) == (1, 0.5)
    assert density_coverage(real, fake).coverage == 0.5


def test_density_of_equal_laws_is_near_1() -> None:
    """Naeem et al. 2020, Lemma 1."""
    generator = torch.Generator().manual_seed(0)
    found = [
        density_coverage(*torch.randn(2, 100, 4, generator=generator)).density for _ in range(30)
    ]
    assert statistics.fmean(found) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_vendi_score_counts_what_is_different(count: int) -> None:
    different = torch.eye(9)[:count] * torch.arange(1, count + 1)[:, None]
    assert vendi_score(different) == pytest.approx(count)
    assert vendi_score(different.repeat(5, 1)) == pytest.approx(count)
    assert vendi_score(torch.ones(count, 3)) == pytest.approx(1)


def test_the_vendi_score_is_that_of_the_cosine_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.evaluate.numbers.arrays.BLOCK", 8)
    for features in (draw(30, 5), draw(4, 20)):
        units = features / features.norm(dim=1, keepdim=True)
        p = np.linalg.eigvalsh((units @ units.T).numpy() / len(units))
        p = p[p > 1e-12]
        assert vendi_score(features) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)


@pytest.mark.parametrize("score", [*SETS, lambda real, fake: vendi_score(real)])
def test_neither_order_nor_kind_of_array_matters(score: Callable[..., Any], tmp_path: Path) -> None:
    real, fake = draw(1100, 3).float(), draw(40, 3, seed=1).float()
    np.save(tmp_path / "real.npy", real.numpy())
    stored = np.load(tmp_path / "real.npy", mmap_mode="r")
    found = score(real, fake)
    assert score(stored, fake.numpy()) == found
    assert score(real.double(), fake.double()) == found
    shuffled = real[torch.randperm(1100, generator=torch.Generator().manual_seed(0))]
    assert score(shuffled, fake.flip(0)) == pytest.approx(found, rel=1e-9)


BAD_SETS = [
    (torch.ones(3), torch.eye(3), r"real has shape \(3,\); expected \(pictures, features\)"),
    (torch.ones(3, 0), torch.eye(3), r"real has shape \(3, 0\)"),
    (torch.ones(2, 3, 4), torch.eye(3), r"real has shape \(2, 3, 4\)"),
    (torch.eye(9), torch.eye(9)[:1], "fake needs at least 2 rows, found 1"),
    (torch.eye(9)[:0], torch.eye(9), "real needs at least 2 rows, found 0"),
    (torch.eye(9), torch.ones(9, 4), "real has 9 features and fake 4; both .* one extractor"),
    (torch.eye(9), torch.eye(9).log(), "9 of 9 feature rows of fake are not finite; leave out"),
    (torch.eye(9) * torch.tensor([math.nan, *[1] * 8])[:, None], torch.eye(9), "1 of 9 .* real"),
]


@pytest.mark.parametrize("score", SETS)
@pytest.mark.parametrize(("real", "fake", "message"), BAD_SETS)
def test_bad_sets_are_refused(
    score: Callable[..., Any], real: Tensor, fake: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(real, fake)


def test_sets_of_no_more_than_k_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k is 3; .* the 3 pictures"):
        precision_recall(torch.eye(9), torch.eye(9)[:3])
    with pytest.raises(ValueError, match=r"k is 5; .* the 5 pictures"):
        density_coverage(torch.eye(9)[:5], torch.eye(9))


def test_rows_of_zeros_have_no_vendi_score() -> None:
    with pytest.raises(ValueError, match="2 of 3 rows of features are zero"):
        vendi_score(torch.tensor([[0.0, 0], [1, 0], [0, 0]]))
    with pytest.raises(ValueError, match="features needs at least 1 rows"):
        vendi_score(torch.ones(0, 2))


CAT, DOG, MUG, BAD = torch.eye(4)
CONCEPTS = {"cat": CAT[None], "dog": DOG[None], "mug": MUG[None]}
SEEN = torch.stack([CAT, DOG, MUG])
NAMES = ["cat", "dog", "mug"]


def test_perfect_crops_have_cp_clip_1_and_none_have_0() -> None:
    assert cp_clip(SEEN, NAMES, [0.9, 0.8, 0.7], CONCEPTS) == 1
    assert cp_clip(torch.empty(0, 4), [], [], CONCEPTS) == 0


def test_a_missing_concept_counts_0() -> None:
    assert cp_clip(SEEN[:2], NAMES[:2], [0.9, 0.8], CONCEPTS) == pytest.approx(2 / 3)


def test_the_surest_box_of_a_label_counts_alone() -> None:
    crops, labels = torch.cat([SEEN, BAD[None]]), [*NAMES, "dog"]
    assert cp_clip(crops, labels, [0.5, 0.5, 0.5, 0.4], CONCEPTS) == 1
    assert cp_clip(crops, labels, [0.5, 0.5, 0.5, 0.6], CONCEPTS) == pytest.approx(2 / 3)
    assert cp_clip(crops, labels, [0.5, 0.5, 0.5, 0.5], CONCEPTS) == 1  # of equal ones the first


def test_a_bad_surer_box_leaves_a_third_of_what_a_missing_one_left() -> None:
    crops, labels = torch.stack([CAT, DOG, BAD]), ["cat", "dog", "dog"]
    assert cp_clip(crops, labels, [0.5, 0.5, 0.6], CONCEPTS) == pytest.approx(1 / 3)


def test_labels_that_are_not_requested_are_ignored() -> None:
    crops, labels = torch.cat([SEEN, CAT[None]]), [*NAMES, "sofa"]
    assert cp_clip(crops, labels, [0.1, 0.1, 0.1, 0.9], CONCEPTS) == 1
    assert cp_clip(CAT[None], ["sofa"], [0.9], CONCEPTS) == 0


def test_swapped_concepts_cost_nothing_unless_labels_are_matched() -> None:
    swapped = torch.stack([DOG, CAT, MUG])
    assert cp_clip(swapped, NAMES, [0.9] * 3, CONCEPTS) == 1
    assert cp_clip_matched(swapped, NAMES, [0.9] * 3, CONCEPTS) == pytest.approx(1 / 3)
    assert cp_clip_matched(SEEN, NAMES, [0.9] * 3, CONCEPTS) == 1
    assert cp_clip_matched(SEEN[:2], NAMES[:2], [0.9] * 2, CONCEPTS) == pytest.approx(2 / 3)


def test_references_of_a_concept_are_averaged_as_cosines() -> None:
    half = torch.stack([CAT, 9 * (CAT + BAD)])
    found = cp_clip(CAT[None], ["cat"], [0.9], {"cat": half})
    assert found == pytest.approx((1 + 0.5**0.5) / 2)


def test_cp_clip_can_be_negative() -> None:
    assert cp_clip(-CAT[None], ["cat"], [0.9], {"cat": CAT[None]}) == -1


@pytest.mark.parametrize("seed", range(5))
def test_cp_clip_is_its_equations_in_any_order_and_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crops, scores = rng.normal(size=(7, 6)), rng.random(7)
    labels = rng.choice(["a", "b", "c", "other"], 7).tolist()
    references = {name: rng.normal(size=(count, 6)) for name, count in (("a", 1), ("b", 3))}

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    total = 0.0
    for name in references:
        boxes = [i for i in range(7) if labels[i] == name]
        if boxes:
            kept = crops[max(boxes, key=lambda i: scores[i])]
            total += max(
                statistics.fmean(cosine(kept, x) for x in xs) for xs in references.values()
            )
    found = cp_clip(crops, labels, scores, references)
    assert found == pytest.approx(total / 2, rel=1e-12)
    order = rng.permutation(7)
    sizes = rng.random((7, 1)) * 1e6
    moved = torch.tensor((crops * sizes)[order])
    assert cp_clip(
        moved, [labels[i] for i in order], torch.tensor(scores[order]), references
    ) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(
    ("crops", "labels", "scores", "references", "message"),
    [
        (SEEN, NAMES, [1.0] * 3, {}, "references name no concept"),
        (SEEN, NAMES, [1.0] * 2, CONCEPTS, "3 crop_embeddings, 3 labels and 2 scores"),
        (SEEN, NAMES, [1, 1, math.nan], CONCEPTS, "scores must be finite"),
        (SEEN * 0, NAMES, [1.0] * 3, CONCEPTS, "3 of 3 rows of crop_embeddings are zero"),
        (SEEN, NAMES, [1.0] * 3, {"cat": CAT[None] * 0}, "1 of 1 rows of references.'cat'. are"),
        (
            SEEN,
            NAMES,
            [1.0] * 3,
            {"cat": SEEN[:0]},
            "'cat'. needs at least 1 rows",
        ),
        (SEEN[:0], [], [], {"cat": SEEN[:0]}, "'cat'. needs at least 1 rows"),
        (SEEN, NAMES, [1.0] * 3, {"cat": CAT[None, :2]}, "crop_embeddings has 4 features and ref"),
        (CAT, NAMES, [1.0] * 3, CONCEPTS, "there are 4 crop_embeddings"),
    ],
)
def test_bad_crops_are_refused(
    crops: Tensor, labels: list[str], scores: list[float], references: Any, message: str
) -> None:
    for score in (cp_clip, cp_clip_matched):
        with pytest.raises(ValueError, match=message):
            score(crops, labels, scores, references)


def test_ti_clip_is_the_mean_cosine() -> None:
    assert ti_clip(CAT[None] * 7, CAT * 3) == 1
    assert ti_clip(CAT[None], DOG) == 0
    assert ti_clip(torch.stack([CAT, DOG, -CAT, CAT]).numpy(), CAT.numpy()) == 0.25
    assert ti_clip(torch.stack([CAT, DOG]), torch.stack([CAT, CAT + DOG])) == pytest.approx(
        (1 + 0.5**0.5) / 2
    )


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (SEEN, CAT * 0, "1 of 1 rows of text_embedding are zero"),
        (SEEN * 0, CAT, "3 of 3 rows of image_embeddings are zero"),
        (SEEN, CAT[:2], "image_embeddings has 4 features and text_embedding 2"),
        (SEEN, SEEN[:2], "3 image_embeddings and 2 texts"),
        (SEEN[:0], CAT, "image_embeddings needs at least 1 rows"),
        (SEEN.log(), CAT, "3 of 3 feature rows of image_embeddings are not finite"),
    ],
)
def test_bad_embeddings_are_refused(images: Tensor, text: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ti_clip(images, text)
