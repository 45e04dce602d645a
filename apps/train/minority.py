"""One training from pictures to a classifier of their rarity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.evaluate.pictures.processes import Processes
from apps.evaluate.pictures.provenance import provenance
from apps.pipelines import call_parameters, load_pipeline, model_name
from apps.sample import check_writable
from apps.train.data import Data, read_data
from apps.train.kinds import LEVELS, ranks
from apps.train.lesson import WIDEST
from apps.train.minority_scores import Plan, Scored, check_takes, score
from apps.train.minority_settings import MinoritySettings
from apps.training.batch import Batch
from apps.training.state import Recipe
from apps.training.trainer import train
from guidance import quantile_labels
from guidance.core.target import Target
from guidance.evaluators import (
    EvaluatorConfig,
    NetworkSettings,
    build,
    denoiser_of,
    save_evaluator,
    space_of,
)


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        folder: of the classifier.
        scores: on held-out pictures by noise over signal ``sigma``: ``count``, share of right
            classes ``accuracy``, and ``off``, how many classes the expected one is away.
        chance: both for a classifier that knows nothing.
        truth: rank correlation of the minority score with the numbers given, if any.
    """

    folder: Path
    scores: list[dict[str, Any]]
    chance: dict[str, float]
    truth: dict[str, Any] | None


def run(settings: MinoritySettings) -> Trained:
    """Score the pictures, train, measure, and write the classifier to ``settings.out``.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then, or
            only what the same command continues from.
    """
    work = settings.work or settings.out.with_name(f"{settings.out.name}.work")
    kept = settings.scores or settings.out.parent / "scores"
    for folder in (settings.out, work, kept):
        check_writable(folder)
    processes = Processes(settings.device)
    if settings.training_batch % processes.count:
        raise ValueError(
            f"training_batch must be a multiple of the {processes.count} processes, found "
            f"{settings.training_batch}"
        )
    data, groups, truth = processes.once(lambda: _known(settings))
    pipe = load_pipeline(
        settings.model, device=str(processes.device), dtype=settings.dtype, prompts=False
    )
    check_takes(pipe, groups is not None)
    seen = score(pipe, data, _plan(settings, pipe, data, groups), processes, kept)
    labels = quantile_labels(seen.scores, settings.classes, groups)
    _check_labels(labels, settings.classes, seen.scores)
    config = _config(settings, pipe, seen)
    torch.manual_seed(settings.seed)
    net = build(config.kind, config.network)
    _train(settings, net, seen, labels, data.held_out, config, work, processes.device)
    net = net.half().float()
    held = slice(0, data.held_out)
    scores = processes.once(lambda: measure(net, seen, labels, held, settings.seed))
    found = None if truth is None else correlation(seen.scores, torch.tensor(truth))
    middle = (settings.classes - 1) / 2
    about = {
        "command": settings.command,
        "model": model_name(settings.model),
        "data": {
            "pictures": len(data),
            "held_out": data.held_out,
            "hash": data.pictures.fingerprint,
        },
        "score": {name: getattr(settings, name) for name in ("level", "draws", "distance")},
        "scores": scores,
        "chance": {
            "accuracy": 1 / settings.classes,
            "off": round(float((labels - middle).abs().mean()), 4),
        },
        "truth": found,
        **provenance(processes.device, processes.count),
    }
    whole = EvaluatorConfig(**vars(config) | {"training": about})
    processes.once(lambda: save_evaluator(settings.out, net, whole))
    return Trained(settings.out, scores, about["chance"], found)


def _known(settings: MinoritySettings) -> tuple[Data, list[str] | None, list[float] | None]:
    """What can be checked before anything is loaded: pictures, their groups, the truth of each."""
    data = read_data(settings.data, settings.pictures)
    if settings.captions:
        data.texts  # noqa: B018  raises where there are none
    groups = settings.label and _column(data, settings.label)
    truth = None
    if settings.truth:
        texts = _column(data, settings.truth)
        try:
            truth = [float(text) for text in texts]
        except ValueError as error:
            raise ValueError(f"column {settings.truth!r} must hold numbers ({error})") from error
    return data, groups or None, truth


def _column(data: Data, path: str) -> list[str]:
    values = data.labels(path)
    if without := sum(value is None for value in values):
        raise ValueError(f"column {path!r} is not known of {without} of {len(values)} pictures")
    return [str(value) for value in values]


def _plan(settings: MinoritySettings, pipe: Any, data: Data, groups: list[str] | None) -> Plan:
    """How to score, with what the pipeline is to be told."""
    takes = call_parameters(pipe)
    labels = None
    if "class_labels" in takes and groups is not None:
        try:
            labels = [int(group) for group in groups]
        except ValueError as error:
            raise ValueError(
                f"column {settings.label!r} must hold the class labels of "
                f"{type(pipe).__name__}, whole numbers ({error})"
            ) from error
    prompts = None
    if "prompt" in takes:
        prompts = data.texts if settings.captions else [""] * len(data)
    return Plan(
        level=settings.level,
        draws=settings.draws,
        distance=settings.distance,
        prompts=prompts,
        labels=labels,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )


def _check_labels(labels: Tensor, classes: int, scores: Tensor) -> None:
    counts = labels.bincount(minlength=classes)
    if int(counts.min()) == 0:
        raise ValueError(
            f"{int((counts == 0).sum())} of {classes} classes of rarity are empty: {len(scores)} "
            f"pictures have {len(scores.unique())} different scores; give fewer --classes or more "
            "pictures"
        )


def _config(settings: MinoritySettings, pipe: Any, seen: Scored) -> EvaluatorConfig:
    channels, height, width = seen.latents.shape[1:]
    network = NetworkSettings(
        channels=channels,
        outputs=settings.classes,
        size=None if max(height, width) <= WIDEST else (height, width),
        width=settings.width,
        depth=settings.depth,
    )
    shares = [100 * (number + 1) / settings.classes for number in range(settings.classes)]
    return EvaluatorConfig(
        "minority",
        network,
        space_of(pipe),
        input="noisy",
        denoiser=denoiser_of(next(iter(Target(pipe).denoisers))),
        classes=tuple(f"up to {share:.4g}%" for share in shares),
    )


def _train(
    settings: MinoritySettings,
    net: Any,
    seen: Scored,
    labels: Tensor,
    held_out: int,
    config: EvaluatorConfig,
    work: Path,
    device: torch.device,
) -> None:
    """Train the network; what was kept of the same training goes on."""
    recipe = Recipe(
        steps=settings.steps,
        batch=settings.training_batch,
        lr=settings.lr,
        warmup=min(100, settings.steps // 10),
        ema=0.99,
    )

    def loss(net: Any, batch: Batch) -> Tensor:
        rows = held_out + batch.indices
        z = seen.latents[rows]
        x, level = noised(z, seen.levels, batch.rand(1)[:, 0], batch.randn(*z.shape[1:]))
        return F.cross_entropy(net(x.to(device), level.to(device)), labels[rows].to(device))

    same = [config.to_dict(), asdict(recipe), settings.seed, labels.tolist(), seen.levels.tolist()]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode())
    digest.update(seen.latents.numpy().tobytes())
    key, items = digest.hexdigest()[:16], len(labels) - held_out
    try:
        train(net, loss, recipe, items, work / key, seed=settings.seed, device=device)
    except FloatingPointError as error:
        raise ValueError(f"{error}; lower the learning rate with --lr") from error


def noised(z: Tensor, levels: Tensor, share: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Latents in variance preserving noise, and its ``log(sigma / alpha)``.

    Args:
        z: latents ``(B, C, H, W)``.
        levels: rising noise levels of a model.
        share: place among them of each, in ``[0, 1)``; ``(B,)``.
        noise: standard normal, of the shape of z.
    """
    place = share * (len(levels) - 1)
    below = place.long()
    level = torch.lerp(levels[below], levels[below + 1], place - below)
    # alpha and sigma of a unit variance, whose log ratio is the level.
    alpha, sigma = (torch.sigmoid(sign * 2 * level).sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
    return alpha * z + sigma * noise, level


@torch.no_grad()
def measure(
    net: Any, seen: Scored, labels: Tensor, held: slice, seed: int, repeats: int = 4
) -> list[dict[str, Any]]:
    """How well a trained network tells the classes of some pictures, by noise over signal."""
    generator = torch.Generator().manual_seed(seed)
    device, classes = next(net.parameters()).device, net.settings.outputs
    z, wanted = seen.latents[held].repeat(repeats, 1, 1, 1), labels[held].repeat(repeats)
    share = torch.rand(len(z), generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    logits, at = [], []
    for rows in torch.arange(len(z)).split(512):
        x, level = noised(z[rows], seen.levels, share[rows], noise[rows])
        logits.append(net(x.to(device), level.to(device)).cpu())
        at.append(level)
    p = torch.cat(logits).softmax(1)
    off = (p @ torch.arange(classes).float() - wanted).abs()
    right, sigma = (p.argmax(1) == wanted).float(), torch.cat(at).exp()
    rows_by_level = []
    for low, high in pairwise(LEVELS):
        inside = (sigma > low) & (sigma <= high)
        if inside.any():
            rows_by_level.append(
                {
                    "sigma": [low, high if high < float("inf") else None],
                    "count": int(inside.sum()),
                    "accuracy": round(float(right[inside].mean()), 4),
                    "off": round(float(off[inside].mean()), 4),
                }
            )
    return rows_by_level


def correlation(scores: Tensor, truth: Tensor) -> dict[str, Any]:
    """Spearman's rank correlation with its 95 % interval.

    By Fisher, with the variance 1.06 / (n - 3) of Fieller, Hartley and Pearson 1957.
    """
    rho = torch.corrcoef(torch.stack([ranks(scores), ranks(truth)]))[0, 1]
    half = 1.96 * (1.06 / max(len(scores) - 3, 1)) ** 0.5
    ends = [float(torch.tanh(torch.atanh(rho) + sign * half)) for sign in (-1, 1)]
    return {
        "pictures": len(scores),
        "rank_correlation": round(float(rho), 4),
        "interval": [round(end, 4) for end in ends],
    }
