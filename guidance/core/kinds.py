"""The kinds of rules, one of which a guidance method is.

A ``Direction`` turns branch predictions into a guided prediction; a ``Correction`` changes what the
directions of a chain gave; a ``Conditioning`` changes the embedded prompt before all of that, and a
``Starting`` the noise that a run starts from. Write a method as a frozen dataclass with
``repr=False``.
"""

from __future__ import annotations

from torch import Tensor

from guidance.core.prediction import COND, Step
from guidance.core.rule import Rule


class Direction(Rule):
    """A method that moves the prediction away from the conditional one."""

    def guide(self, step: Step) -> Tensor:
        """Guided prediction in the model's own space, ``(B, ...)``."""
        raise NotImplementedError

    def predict(self, step: Step) -> Tensor:
        return self.guide(step) if self.active(step) else step.evaluate(COND)


class Conditioning(Rule):
    """A method that changes the embedded prompt by ``condition``, and leaves predictions alone."""

    def predict(self, step: Step) -> Tensor:
        return step.evaluate(COND)


class Starting(Rule):
    """A method that changes the ``start`` of runs, and leaves embeddings and predictions alone."""

    @property
    def starts(self) -> bool:
        return True

    def active(self, step: Step) -> bool:
        return self.starts and step.index == 0

    def predict(self, step: Step) -> Tensor:
        return step.evaluate(COND)

    def between(
        self,
        start: float | None = None,
        stop: float | None = None,
        *,
        sigma: tuple[float, float] | None = None,
    ) -> Rule:
        raise ValueError(
            f"between: {self!r} acts at the start of a run and nowhere else; limit the other rules "
            "before you add it to them"
        )


class Correction(Rule):
    """A method that changes a guided prediction; alone, it acts on the conditional one."""

    def correct(self, step: Step, guided: Tensor) -> Tensor:
        """Corrected prediction in the model's own space, ``(B, ...)``."""
        raise NotImplementedError

    def predict(self, step: Step) -> Tensor:
        cond = step.evaluate(COND)
        return self.correct(step, cond) if self.active(step) else cond
