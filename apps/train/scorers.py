"""Scorers of finished pictures by name, which a reward learns to foresee."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from apps.evaluate.networks.rewards import REWARDS, load_reward
from apps.hunt.objectives import OBJECTIVES, load_objective

Score = Callable[[list[Image.Image], list[str]], Any]

FORMS = (*OBJECTIVES, *REWARDS, "MODULE:FUNCTION")
"""The forms of name that ``load_scorer`` knows."""


@dataclass(frozen=True)
class Scorer:
    """Scores pictures for their prompts, larger for better.

    Attributes:
        name: that results know it by.
        key: what changes when the scorer does.
    """

    name: str
    key: str
    function: Score

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Scores (N,) of N pictures, in float32.

        Raises:
            ValueError: it returns something else, or numbers that are not finite.
        """
        scores = torch.as_tensor(self.function(images, prompts)).detach().float().cpu()
        if scores.shape != (len(images),):
            raise ValueError(
                f"scorer {self.name!r} must return one number for each of the {len(images)} "
                f"pictures, found shape {tuple(scores.shape)}"
            )
        if not bool(scores.isfinite().all()):
            raise ValueError(f"scorer {self.name!r} gave a score that is not finite")
        return scores


def load_scorer(name: str, device: str = "cpu") -> Scorer:
    """The scorer of a name: one of ``FORMS``.

    ``module:function`` is a function of one's own, from pictures and prompts to a number for each.

    Raises:
        ValueError: nothing has this name, or it cannot be loaded.
    """
    kind, _, source = name.partition(":")
    if kind in {form.partition(":")[0] for form in OBJECTIVES}:
        objective = load_objective(name, device)
        return Scorer(objective.name, name, objective)
    if kind in {form.partition(":")[0] for form in REWARDS}:
        reward = load_reward(name, device)

        def score(images: list[Image.Image], prompts: Sequence[str]) -> list[float]:
            return reward.score(prompts, images)

        return Scorer(reward.name, name, score)
    if not (kind and source):
        raise ValueError(f"no scorer {name!r}; expected one of {', '.join(FORMS)}")
    try:
        module = importlib.import_module(kind)
        function = getattr(module, source)
        code = inspect.getsource(module)
    except (ImportError, AttributeError, OSError) as error:
        raise ValueError(
            f"cannot load scorer {name!r} ({error}); expected a module that Python finds, see "
            "PYTHONPATH, and a function in it"
        ) from error
    if not callable(function):
        raise ValueError(f"scorer {name!r} must be a function, found {type(function).__name__}")
    return Scorer(name, name + code, function)
