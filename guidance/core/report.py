"""What a guide block did: one record for each denoiser call."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from guidance.core.clock import Tick
from guidance.core.prediction import Step

_COLUMNS = ("run", "index", "timestep", "sigma", "edm_sigma", "scale", "evaluations", "active")

_FEW = 8
"""Images whose scales a plot shows one by one."""


@dataclass(frozen=True)
class Record:
    """One denoiser call.

    Attributes:
        run, index: number of the run within the block, and of the call within the run.
        timestep, sigma, edm_sigma: noise level of the call, see ``Step``.
        active: names of the rules that acted.
        scale: guidance scale used, None where no rule used one; a list of one for each image where
            they differ, None for images that are not guided.
        evaluations: denoiser evaluations per image, the mean over the batch.
        extras: what rules noted beside the scale.
    """

    run: int
    index: int
    timestep: float
    sigma: float
    edm_sigma: float
    active: tuple[str, ...]
    scale: Any
    evaluations: float
    extras: dict[str, Any]


@dataclass
class Report:
    """Records of all denoiser calls in a block, over all of its runs.

    Attributes:
        rule: the rule as text.
        model: class name of the pipeline, or of the denoiser if there is none.
        touched: layers and heads that rules perturb.
        steps: the records, oldest first.
    """

    rule: str
    model: str
    touched: tuple[str, ...] = ()
    steps: list[Record] = field(default_factory=list)

    def add(self, tick: Tick, step: Step, active: tuple[str, ...], evaluations: float) -> None:
        """Append the record of one call."""
        extras = dict(step.notes)
        scale = extras.pop("scale", None)
        self.steps.append(
            Record(
                run=tick.run,
                index=tick.index,
                timestep=tick.timestep,
                sigma=tick.sigma,
                edm_sigma=step.edm_sigma,
                active=active,
                scale=scale,
                evaluations=evaluations,
                extras=extras,
            )
        )

    @property
    def nfe(self) -> float:
        """Denoiser evaluations per image, summed over all calls in the block."""
        return sum(record.evaluations for record in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types; a noise level that is infinite or unknown becomes None."""
        steps = [asdict(record) | {"active": list(record.active)} for record in self.steps]
        for step in steps:
            for name in ("sigma", "edm_sigma"):
                step[name] = step[name] if isfinite(step[name]) else None
        about = {"rule": self.rule, "model": self.model, "touched": list(self.touched)}
        return {**about, "nfe": self.nfe, "steps": steps}

    def to_csv(self, path: str | Path) -> None:
        """Write one line per call; extras follow as columns of their own."""
        extras = sorted({name for record in self.steps for name in record.extras})
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*_COLUMNS, *extras])
            for record in self.steps:
                values = asdict(record) | {"active": " ".join(record.active)}
                row = [values[name] for name in _COLUMNS]
                writer.writerow(row + [record.extras.get(name) for name in extras])

    def plot(self, path: str | Path) -> None:
        """Draw scale and evaluations over the calls; needs matplotlib.

        Scales of single images are lines of their own, for many images their median in their range.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        calls = range(len(self.steps))
        scales = [_scales(record) for record in self.steps]
        images = max(map(len, scales), default=0)
        # A call with one scale for all has it in every line.
        columns = [row * images if len(row) == 1 else row for row in scales]
        if images <= _FEW:
            for line in zip_longest(*columns, fillvalue=nan):
                top.plot(calls, line, marker=".")
        else:
            known = [[scale for scale in row if not isnan(scale)] or [nan] for row in columns]
            top.fill_between(calls, list(map(min, known)), list(map(max, known)), alpha=0.3)
            top.plot(calls, list(map(median, known)), marker=".")
        top.set(ylabel="scale", title=f"{self.rule} on {self.model}")
        bottom.step(calls, [r.evaluations for r in self.steps], where="mid")
        bottom.set(xlabel="denoiser call", ylabel="evaluations per image", ylim=(0, None))
        figure.savefig(path)

    def __str__(self) -> str:
        runs = len({record.run for record in self.steps})
        lines = [
            f"{self.rule} on {self.model}: {len(self.steps)} denoiser calls in {runs} "
            f"{'run' if runs == 1 else 'runs'}, {self.nfe:g} evaluations per image",
            *([f"perturbed: {', '.join(self.touched)}"] if self.touched else []),
            f"{'run':>4}{'call':>6}{'timestep':>10}{'sigma':>8}{'scale':>8}{'evals':>6}  rules",
        ]
        for r in self.steps:
            ends = sorted({scale for scale in _scales(r) if not isnan(scale)})
            scale = "..".join(f"{end:.4g}" for end in dict.fromkeys(ends[:1] + ends[-1:])) or "-"
            lines.append(
                f"{r.run:>4}{r.index:>6}{r.timestep:>10.1f}{r.sigma:>8.4f}{scale:>8}"
                f"{r.evaluations:>6g}  {' '.join(r.active) or '-'}"
            )
        return "\n".join(lines)


def _scales(record: Record) -> list[float]:
    """Scale of each image, or one for all of them; nan where there is none."""
    scales = record.scale if isinstance(record.scale, list) else [record.scale]
    return [nan if scale is None else scale for scale in scales]
