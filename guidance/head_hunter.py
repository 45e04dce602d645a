"""HeadHunter: a greedy search for the attention heads whose softening serves an objective.

"Fine-Grained Perturbation Guidance via Attention Head Selection", Donghoon Ahn et al., 2025,
arXiv 2506.10978.

    score(S) = 1/M sum_j O(image_j(S), prompt_j)        over M pairs of prompt and seed
    repeat:  S <- S + argmax_h score(S + h)             over the heads h that are left

Image j of a set S is made from its prompt and seed by ``SoftPAG`` on the heads of S: images of
different sets differ by their heads alone.

Neither the paper's text nor its code could be read: this is our reconstruction from its abstract
and a published review. Deviations: a round of the review adds its k best heads at once; ours adds
one, as heads that were scored apart may not go together, and ``k`` counts all heads. The score of
no heads, the order of equals (first candidate first) and all defaults are ours.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from guidance.core.denoiser import network
from guidance.core.fingerprint import weights_hash
from guidance.core.heads import Selectors, check_selectors, resolve
from guidance.core.rule import Rule
from guidance.core.schedule import check_number
from guidance.core.target import Target
from guidance.head_set import Head, Heads, HeadSet, layers_and_heads
from guidance.hunting.log import HuntLog
from guidance.hunting.processes import check_processes, once, place, shared
from guidance.hunting.progress import OnProgress, Progress
from guidance.hunting.trial import Objective, Trial, name_of
from guidance.soft_pag import SoftPAG

Candidate = TypeVar("Candidate")

_log = logging.getLogger("diffusteer")


def greedy(
    score: Callable[[tuple[Candidate, ...]], float], candidates: Sequence[Candidate], k: int
) -> tuple[Candidate, ...]:
    """Pick heads one at a time, each the best beside those picked before.

    Args:
        score: of a tuple of heads in the order picked; larger is better.
        candidates: different heads; of equals the first wins.
        k: heads to pick; all if there are fewer.

    Returns:
        The heads in the order picked.

    Raises:
        ValueError: a score is nan, which has no order.

    Source: the algorithm at the top of this file.
    """
    picked: tuple[Candidate, ...] = ()
    left = list(candidates)
    while left and len(picked) < k:
        scores = [float(score((*picked, head))) for head in left]
        for head, found in zip(left, scores, strict=True):
            if math.isnan(found):
                raise ValueError(f"the score of {(*picked, head)!r} must be a number, found nan")
        picked = (*picked, left.pop(scores.index(max(scores))))
    return picked


def budget(candidates: int, k: int, images: int) -> int:
    """Images that a search makes: those of no heads and of each set that it scores.

    Args:
        candidates: heads to choose from.
        k: heads to pick.
        images: of each set, prompts x seeds.
    """
    return images * (1 + sum(candidates - picked for picked in range(min(k, candidates))))


def hunt(
    pipe: Any,
    objective: Objective,
    prompts: Sequence[str] | Sequence[int],
    seeds: Sequence[int],
    candidates: Selectors = "*",
    k: int = 3,
    scale: float = 3.0,
    strength: float = 1.0,
    *,
    guidance: Rule | None = None,
    call: Mapping[str, Any] | None = None,
    batch_size: int = 4,
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> HeadSet:
    """Find the heads whose softening serves an objective best.

    The number of images is logged, and told to ``on_progress``, before the first is made. Several
    processes of ``accelerate launch`` share the work once each has made its ``PartialState`` or
    ``Accelerator``, and all return the same.

    Args:
        pipe: diffusers pipeline.
        objective: scores (N,) from N images and their prompts, larger is better. Results know it
            by its ``name`` or ``__name__``.
        prompts: texts or class labels.
        seeds: each prompt is drawn with each seed.
        candidates: selectors of layers and heads as for ``SoftPAG``; all heads by default.
        k: heads to find.
        scale, strength: of ``SoftPAG``, numbers above 0.
        guidance: rule beside it, such as ``CFG(4)``; the call must ask for the rows it needs.
        call: further arguments of the pipeline's call, such as ``num_inference_steps``; one text as
            ``negative_prompt`` serves all images.
        batch_size: images made at once.
        folder: where scores are kept as soon as they are known; the same search goes on from there.
            None keeps nothing.
        on_progress: see ``OnProgress``.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range, the model does not have such
            heads, the folder is that of another search, processes do not know of each other; during
            the search, the objective does not give a finite number for each image.
    """
    for name, value, high in (("scale", scale, math.inf), ("strength", strength, 1)):
        if check_number("hunt", name, value, 0, high) == 0:
            raise ValueError(f"hunt: {name} must be above 0, where heads make a difference")
    for name, value in (("k", k), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ValueError(f"hunt: {name} must be a whole number from 1 up, found {value!r}")
    _check_listed("prompts", prompts, str | int)
    _check_listed("seeds", seeds, int)
    check_processes()
    model = network(next(iter(Target(pipe).denoisers)))
    selected = resolve(model, check_selectors("hunt", "candidates", candidates))
    heads = [(part.layer.path, head) for part in selected for head in part.heads]
    pairs = tuple((prompt, seed) for prompt in prompts for seed in seeds)
    softened = functools.partial(SoftPAG, scale, strength=strength)
    trial = Trial(pipe, objective, pairs, softened, guidance, call or {}, batch_size)
    settings: dict[str, Any] = {
        "model": type(model).__name__,
        "weights": weights_hash(model),
        "layers": layers_and_heads(model),
        "objective": name_of(objective),
        "scale": float(scale),
        "strength": float(strength),
        "guidance": repr(guidance) if guidance else None,
        "call": {name: _plain(value) for name, value in (call or {}).items()},
        "prompts": list(prompts),
        "seeds": list(seeds),
    }
    beside = {
        "candidates": [list(head) for head in heads],
        "scheduler": repr(getattr(pipe, "scheduler", None)),
        "dtype": str(getattr(pipe, "dtype", None)),
        "batch_size": batch_size,
    }
    log = HuntLog(folder, settings | beside)
    known = once(log.read)
    total = budget(len(heads), k, len(pairs))

    def mean(some: Heads) -> float:
        return math.fsum(known[some]) / len(pairs)

    def scored(before: Heads) -> dict[Head, float]:
        """Mean score of each head beside some, as far as it is known."""
        return {head: mean((*before, head)) for head in heads if (*before, head) in known}

    def now(before: Heads) -> Progress:
        """Where the search is in the round after some heads are found."""
        rounds = tuple(scored(before[:count]) for count in range(len(before) + 1))
        done = len(pairs) * sum(len(each) <= k for each in known)
        return Progress(done, total, mean(()) if () in known else None, rounds)

    def score(some: Heads) -> float:
        """Mean score of some heads; of a round whose scores are not known, all are made."""
        if some not in known:
            before = some[:-1]
            sets = [(*before, head) for head in heads if head not in before]
            missing = [each for each in (sets if before else [(), *sets]) if each not in known]
            for each, scores in shared(missing, trial.scores):
                if place()[0] == 0:
                    log.add(each, scores)
                known[each] = scores
                tell(now(before))
        return mean(some)

    tell = on_progress or (lambda now: None)
    first = now(())
    _log.info("%d heads, %d images in all, %d of them made already", len(heads), total, first.done)
    tell(first)
    baseline, found = score(()), greedy(score, heads, k)
    rounds = tuple(scored(found[:count]) for count in range(len(found)))
    own = {"prompts": tuple(prompts), "seeds": tuple(seeds), "baseline": baseline, "rounds": rounds}
    return HeadSet(**settings | own)


def _check_listed(name: str, values: Any, kind: Any) -> None:
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    if not listed or not values or not all(isinstance(each, kind) for each in values):
        raise ValueError(f"hunt: {name} must be a list with something in it, found {values!r:.80}")
    if len(set(values)) < len(values):
        raise ValueError(f"hunt: {name} must hold each once, found {values!r:.80}")


def _plain(value: Any) -> Any:
    """A value as JSON types; by its text if it has none."""
    return value if isinstance(value, str | int | float | None) else repr(value)
