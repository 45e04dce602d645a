"""Finished cells as numbers: means, bootstrap intervals, paired differences from a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from apps.claims.cells import Cell
from apps.claims.estimates import MEASURES, TRUTH, Estimate
from apps.claims.extras import extra_values
from apps.claims.measure import Bench
from apps.claims.metrics import detail, read_values, similarity, spread
from apps.claims.requests import draw_truth
from apps.claims.scores import correlations
from apps.claims.settings import EACH
from apps.claims.store import Measured
from apps.evaluate.numbers.intervals import RESAMPLES, group_means, means, resamples
from apps.evaluate.numbers.moments import Moments, frechet

FRECHET_RESAMPLES = 200

INTERVALS = (
    f"95 %, percentiles over {RESAMPLES} bootstrap resamples of the prompts, {FRECHET_RESAMPLES} "
    "for the FID, the same in every cell; differences are from the baseline, prompt by prompt"
)


@dataclass(frozen=True)
class Truth:
    """What fresh renders of a set of requests give."""

    moments: Moments
    spread: float
    detail: float


class Summary:
    """Numbers of the finished cells of a bench, all from the same bootstrap resamples.

    Args:
        bench: what has measured the cells.
        measures: names of the measures to give, in this order.
    """

    def __init__(self, bench: Bench, measures: Iterable[str] = MEASURES) -> None:
        self.bench, self.measures = bench, tuple(measures)
        self.counts = resamples(bench.images // EACH, bench.seed)
        self.pictures = resamples(bench.images, bench.seed)
        self.requests = [number // EACH for number in range(bench.images)]
        self._truth = lru_cache(self._draw_truth)

    def _draw_truth(self, prompts: str) -> Truth:
        images = draw_truth(self.bench.requests(prompts), TRUTH, self.bench.seed + 1)
        features = self.bench.scorer.read(images).features
        return Truth(
            Moments.of(features), spread(features).mean().item(), detail(images).mean().item()
        )

    def renders(self, prompts: str) -> Measured:
        """Fresh renders of a set of requests, measured like a cell: what a perfect model gets."""
        requests = self.bench.requests(prompts)
        pixels = draw_truth(requests, EACH, self.bench.seed + 2)
        reading = self.bench.scorer.read(pixels)
        values = read_values(reading, requests) | {"detail": detail(pixels)}
        images = pixels.add(1).mul(127.5).round().byte()
        return Measured({}, 0.0, 0.0, images, reading.features, values)

    def estimates(
        self,
        prompts: str,
        cell: Measured,
        baseline: Measured | None = None,
        extras: Sequence[str] = (),
    ) -> dict[str, Estimate]:
        """Every measure that applies to a cell, and the extras of these names."""
        truth = self._truth(prompts)
        values = dict(cell.values)
        if extras:
            reading = self.bench.scorer.tell(cell.features)
            values |= extra_values(extras, cell, reading, self.bench.requests(prompts))
        known = {name: value for name, value in values.items() if not value.isnan().all()}
        groups = {name: group_means(value, self.requests) for name, value in known.items()}
        groups["detail"] = groups["detail"] / truth.detail
        groups["diversity"] = spread(cell.features.double()) / truth.spread
        if baseline is not None:
            pairs = (images.float().div(127.5).sub(1) for images in (cell.images, baseline.images))
            groups["ssim"] = group_means(similarity(*pairs), self.requests)
        found = {
            name: Estimate(value.nanmean().item(), means(value, self.counts))
            for name, value in groups.items()
        }
        weights = self.counts[:FRECHET_RESAMPLES].repeat_interleave(EACH, dim=1)
        distances = [frechet(Moments.of(cell.features, row), truth.moments) for row in weights]
        value = frechet(Moments.of(cell.features), truth.moments)
        found["fid"] = Estimate.unbiased(value, torch.tensor(distances))
        return {name: found[name] for name in self.measures if name in found}

    def rows(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """One row for each finished cell and for the renders of each set, as JSON types."""
        finished = {cell.name: found for cell in cells if (found := self.bench.find(cell))}
        chosen = [cell for cell in cells if cell.name in finished]
        known: dict[str, dict[str, Estimate]] = {}
        rows = []
        for cell in chosen:
            base = finished.get(cell.baseline or "")
            if cell.score:
                known[cell.name] = correlations(finished[cell.name].values, self.pictures)
                rows.append(_row(cell, finished[cell.name], known[cell.name], None))
                continue
            known[cell.name] = self.estimates(
                cell.prompts, finished[cell.name], base, cell.measures
            )
            rival = known.get(cell.baseline or "")
            row = _row(cell, finished[cell.name], known[cell.name], rival)
            rows.append({**row, **cell.tell(self.bench, finished[cell.name])})
        for prompts in dict.fromkeys(cell.prompts for cell in chosen if not cell.score):
            extras = {name for cell in chosen if cell.prompts == prompts for name in cell.measures}
            cell = Cell(
                name=f"renders-{prompts}", claim="truth", rule="", model="", prompts=prompts
            )
            fresh = self.renders(prompts)
            estimates = self.estimates(prompts, fresh, extras=sorted(extras))
            rows.append(_row(cell, fresh, estimates, None))
        return rows


def _row(
    cell: Cell,
    measured: Measured,
    found: Mapping[str, Estimate],
    baseline: Mapping[str, Estimate] | None,
) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "claim": cell.claim,
        "series": cell.series,
        "knobs": dict(cell.knobs),
        "model": cell.model,
        "rule": cell.rule,
        "prompts": cell.prompts,
        "negative_prompt": cell.negative,
        "steps": cell.steps,
        "evaluations": measured.evaluations,
        "baseline": cell.baseline if baseline else None,
        "measures": {name: estimate.to_dict() for name, estimate in found.items()},
        "differences": {
            name: (estimate - baseline[name]).to_dict()
            for name, estimate in found.items()
            if baseline and name in baseline
        },
    }
