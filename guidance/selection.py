"""Choosing a rule, scale or model by the prompt, learned online from scores: ``PromptRouter``.

PAK-UCB and RFF-UCB of Xiaoyan Hu, Ho-fung Leung and Farzan Farnia, 2024, arXiv 2410.13287; the
equations are in ``guidance.kernel_bandit``. Each round: embed the prompt as y, take an arm that was
never taken, else the one of the largest ``mu + eta sigma``; ties and first arms at random. Then
the score that its picture got goes into the regression of that arm.

Deviations: embeddings have norm 1, so that the width of a kernel means the same for every embedder;
``RBF(1.0)`` and ``eta=1`` by default. The authors' examples take ``Polynomial(gain=10)`` or an RBF
of width 5 on embeddings as they come, and ``eta=exploration(arms, rounds)``, which is meant for
thousands of rounds. ``max_history`` is ours, for arms that change.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from guidance.arm_memory import History, Moments, fitting
from guidance.core.schedule import check_number
from guidance.kernel_bandit import (
    RBF,
    Estimate,
    Polynomial,
    RandomFourier,
    fourier,
    frequencies,
    positive,
    whole,
)

Embed = Callable[[Sequence[str]], Any]
"""Texts to vectors ``(N, D)``: a tensor or an array."""

Kernel = RBF | Polynomial | RandomFourier

_KERNELS: dict[str, Any] = {kind.__name__: kind for kind in (RBF, Polynomial, RandomFourier)}
_DEFAULT = RBF(1.0)
_UNREADABLE = (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError)


class PromptRouter:
    """Which arm to take for a prompt: ``select`` it, use it, and ``update`` with its score.

    Args:
        arms: names of what there is to choose from, hashable and distinct: rules as text, scales,
            models. What they do is the caller's.
        embed: texts to vectors ``(N, D)``, such as the text tower of a CLIP; called with one text.
        kernel: how alike prompts are; ``RandomFourier`` where an arm will see thousands of them.
        alpha: ridge above 0; 1 in the paper.
        eta: exploration from 0 up, see ``exploration`` for the theory's. Arms of which nothing is
            known are believed to score 0: with rewards that are all positive, a small ``eta`` stays
            with the first arm that worked.
        max_history: how many of its last scores an arm remembers, None for all.
        seed: of ties, of first choices, and of random features.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range.
    """

    def __init__(
        self,
        arms: Iterable[Hashable],
        embed: Embed,
        *,
        kernel: Kernel = _DEFAULT,
        alpha: float = 1.0,
        eta: float = 1.0,
        max_history: int | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(arms, str):
            raise TypeError(f"PromptRouter: arms must be several names, found the text {arms!r}")
        if not callable(embed):
            raise TypeError(f"PromptRouter: embed must be callable, found {embed!r:.80}")
        if not isinstance(kernel, Kernel):
            raise TypeError(
                f"PromptRouter: kernel must be one of {', '.join(_KERNELS)}, found {kernel!r:.80}"
            )
        self.embed, self.kernel = embed, kernel
        self.alpha = positive("PromptRouter", "alpha", alpha)
        self.eta = check_number("PromptRouter", "eta", eta)
        self.max_history = max_history
        if max_history is not None:
            self.max_history = whole("PromptRouter", "max_history", max_history)
            if isinstance(kernel, RandomFourier):
                raise ValueError(
                    "PromptRouter: max_history needs a kernel that keeps its history, RBF or "
                    f"Polynomial, found {kernel}"
                )
        self._generator = torch.Generator().manual_seed(whole("PromptRouter", "seed", seed, low=0))
        self._dimension: int | None = None
        self._frequencies: Tensor | None = None
        self._seen: dict[Hashable, History | Moments | None] = {}
        for arm in arms:
            self.add_arm(arm)
        if not self._seen:
            raise ValueError("PromptRouter: arms must hold at least one name, found none")

    @property
    def arms(self) -> tuple[Hashable, ...]:
        """All arms in the order they came."""
        return tuple(self._seen)

    def add_arm(self, arm: Hashable) -> None:
        """One arm more, which is taken next; raises TypeError or ValueError for a known one."""
        try:
            known = arm in self._seen
        except TypeError as error:
            raise TypeError(
                f"PromptRouter: an arm must be hashable, a text or a number, found {arm!r:.80}"
            ) from error
        if known:
            raise ValueError(f"PromptRouter: arms must differ, found {arm!r} twice")
        self._seen[arm] = None

    def select(self, prompt: str) -> Any:
        """The arm to take for a prompt; raises ValueError where ``embed`` gives no vector."""
        context = self._context(prompt)
        best = [arm for arm, seen in self._seen.items() if seen is None]
        if not best:
            guesses = self._estimates(context)
            bounds = {arm: each.mean + self.eta * each.deviation for arm, each in guesses.items()}
            best = [arm for arm, bound in bounds.items() if bound == max(bounds.values())]
        return best[int(torch.randint(len(best), (), generator=self._generator))]

    def update(self, prompt: str, arm: Hashable, reward: float) -> None:
        """Learn what an arm scored for a prompt.

        Args:
            prompt: the text.
            arm: one of ``arms``.
            reward: from -1 to 1.

        Raises:
            TypeError, ValueError: no such arm, no such reward, ``embed`` gives no vector. Nothing
                is learned then.
        """
        if arm not in self.arms:
            names = {str(name): name for name in self.arms}
            close = difflib.get_close_matches(str(arm), names, n=1)
            hint = f"; did you mean {names[close[0]]!r}?" if close else ""
            known = ", ".join(map(repr, self.arms))
            raise ValueError(f"PromptRouter: no arm {arm!r}{hint} (expected one of {known})")
        name = f"the reward of arm {arm!r} for prompt {prompt!r:.80}"
        reward = check_number("PromptRouter", name, reward, -1, 1)
        context = self._context(prompt)
        seen = self._seen[arm] or self._nothing(self._dimension)
        self._seen[arm] = seen.observed(context, reward)

    def estimates(self, prompt: str) -> dict[Any, Estimate]:
        """What each arm that was ever taken would score for a prompt."""
        return self._estimates(self._context(prompt))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file from which ``load`` continues exactly.

        Raises:
            TypeError: an arm is neither text nor number.
        """
        for arm in self.arms:
            if not isinstance(arm, str | int | float):
                raise TypeError(
                    f"PromptRouter: arms must be texts or numbers to be saved, found {arm!r:.80}; "
                    "name a rule by its repr, which parse_rule reads"
                )
        settings = {
            "arms": self.arms,
            "kernel": {"name": type(self.kernel).__name__, **asdict(self.kernel)},
            "alpha": self.alpha,
            "eta": self.eta,
            "max_history": self.max_history,
            "dimension": self._dimension,
        }
        tensors = {"generator": self._generator.get_state()}
        if self._frequencies is not None:
            tensors["frequencies"] = self._frequencies
        for number, seen in enumerate(self._seen.values()):
            parts = {} if seen is None else seen.tensors
            tensors |= {f"{number}.{name}": value for name, value in parts.items()}
        file = Path(path)
        unfinished = file.with_name(f"{file.name}.unfinished")
        save_file(tensors, unfinished, {"PromptRouter": json.dumps(settings)})
        unfinished.replace(file)

    @classmethod
    def load(cls, path: str | Path, embed: Embed) -> PromptRouter:
        """The router that ``save`` wrote, with the embedder that it had.

        Raises:
            ValueError: the file cannot be read, is damaged or holds something else.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if "PromptRouter" not in metadata:
                    raise ValueError("it holds something else")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            settings = json.loads(metadata["PromptRouter"])
            kind = _KERNELS[settings["kernel"].pop("name")]
            settings["kernel"] = kind(**settings["kernel"])
            dimension = settings.pop("dimension")
            router = cls(embed=embed, **settings)
            router._generator.set_state(tensors.pop("generator"))
            router._restore(dimension, tensors)
        except _UNREADABLE as error:
            raise ValueError(
                f"PromptRouter: {str(path)!r} must be a file written by save, but {error}"
            ) from error
        return router

    def _restore(self, dimension: int | None, tensors: dict[str, Tensor]) -> None:
        self._dimension = dimension
        if isinstance(self.kernel, RandomFourier) and dimension is not None:
            known = {"frequencies": tensors["frequencies"]}
            shapes = {"frequencies": (self.kernel.features, dimension)}
            self._frequencies = fitting(known, shapes)["frequencies"]
        for number, arm in enumerate(self._seen):
            own = [name for name in tensors if name.startswith(f"{number}.")]
            parts = {name.partition(".")[2]: tensors[name] for name in own}
            if parts:
                self._seen[arm] = self._nothing(dimension).restored(parts)

    def _nothing(self, dimension: Any) -> History | Moments:
        """What an arm begins with."""
        if isinstance(self.kernel, RandomFourier):
            return Moments.empty(self.alpha, 2 * self.kernel.features)
        return History.empty(self.kernel, self.alpha, self.max_history, dimension)

    def _estimates(self, context: Tensor) -> dict[Any, Estimate]:
        taken = ((arm, seen) for arm, seen in self._seen.items() if seen is not None)
        return {arm: seen.estimate(context) for arm, seen in taken}

    def _context(self, prompt: str) -> Tensor:
        """Embedding of norm 1 ``(D,)``, or its random features."""
        vector = torch.as_tensor(self.embed([prompt])).detach().to("cpu", torch.float64)
        norm = vector.norm().item()
        fits = vector.ndim == 2 and vector.shape == (1, self._dimension or vector.shape[1])
        if not (fits and 0 < norm < inf):
            raise ValueError(
                f"PromptRouter: embed must give a finite vector (1, {self._dimension or 'D'}) "
                f"other than zero for each prompt, found {tuple(vector.shape)} of norm {norm:g} "
                f"for {prompt!r:.80}"
            )
        self._dimension = size = vector.shape[1]
        context = vector[0] / norm
        if not isinstance(self.kernel, RandomFourier):
            return context
        if self._frequencies is None:
            kernel = self.kernel
            self._frequencies = frequencies(kernel.features, size, kernel.width, self._generator)
        return fourier(context, self._frequencies)
