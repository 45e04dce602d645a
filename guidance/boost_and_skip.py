"""Boost-and-Skip: rare samples from noise that is too strong, a little later in the run.

"Boost-and-Skip: A Simple Guidance-Free Diffusion for Minority Generation", Soobin Um, Beomsu Kim
and Jong Chul Ye, 2025, arXiv 2502.06516.

    x_start = gamma n        n ~ N(0, I), where all of the data is noise
    the first Delta_t of the sampler's steps are left out, the others are made as usual

Both parts are needed where sampling adds noise. For Gaussian data N(mu, v0) and a start at noise
level x = a x0 + s eps, with V = a^2 v0 + s^2:

    reverse SDE (DDPM)   variance v0 + (a v0 / V)^2 (gamma^2 - V)       no effect without a > 0
    ODE (DDIM, Euler)    variance (v0 / V) gamma^2                      all of it, also at a = 0

so that the paper's gamma of 4, which is for ancestral sampling, breaks pictures of ODE samplers:
take 1.05 to 1.3 there. Costs nothing: every step left out is an evaluation less.

The start is given in model inputs, variance 1 but for gamma; the engine turns it into what samplers
that work on ``x0 + sigma eps`` start from. Deviations: the paper leaves out 3 of 250 steps, 1.2 %;
here those of the noise schedule's noisiest 1.2 % are, whatever the number and spacing of the steps,
which is the same 3 at 250. With few steps none or one may lie there; the report says how many. Flow
models, whose time is the share of noise, are an extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guidance.core.kinds import Starting
from guidance.core.rule import Start
from guidance.core.schedule import check_number


def boost_and_skip(times: Sequence[float], boost: float, skip: float) -> Start:
    """Factor of the starting noise, and the number of steps that are left out.

    Args:
        times: of the sampler's steps, as shares of the noise schedule, falling from 1.
        boost: ``gamma``.
        skip: share of the noise schedule, from its noisy end, in which no step is made.

    Returns:
        The start of the run; skip 0 leaves out nothing.

    Raises:
        ValueError: every step lies in that share.

    Source: the text at the top of this file.
    """
    skipped = sum(time >= 1 - skip for time in times) if skip else 0
    if skipped == len(times):
        raise ValueError(
            f"BoostAndSkip: skip={skip:g} leaves none of the {len(times)} steps; lower it or take "
            "more steps"
        )
    return Start(skipped, boost)


@dataclass(frozen=True, repr=False)
class BoostAndSkip(Starting):
    """A run that starts from boosted noise, a few steps late; add it to CFG or use it alone.

    The defaults are the paper's, for ancestral sampling. For DDIM, Euler, DPM++, UniPC and flow
    models boost must be far smaller, 1.05 to 1.3. Neutral at boost 1 and skip 0.

    Args:
        boost: ``gamma``, finite number above 0.
        skip: share of the noise schedule that is left out, from 0 up to but excluding 1.

    Raises:
        TypeError, ValueError: a setting is no number in its range; in a run, a scheduler that it
            is not known to be right with, a run that starts from a picture, or too few steps.
    """

    boost: float = 4.0
    skip: float = 0.012

    def __post_init__(self) -> None:
        for name, high in (("boost", float("inf")), ("skip", 1.0)):
            value = check_number("BoostAndSkip", name, getattr(self, name), 0, high)
            object.__setattr__(self, name, value)
        if self.boost == 0 or self.skip == 1:
            raise ValueError(
                f"BoostAndSkip: boost must be above 0 and skip below 1, found {self.boost:g} and "
                f"{self.skip:g}"
            )

    @property
    def starts(self) -> bool:
        return (self.boost, self.skip) != (1, 0)

    def start(self, times: Sequence[float]) -> Start:
        return boost_and_skip(times, self.boost, self.skip)
