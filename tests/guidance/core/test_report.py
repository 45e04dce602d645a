"""The report of a block: figures, JSON, CSV, text and plot."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from guidance import APG, CFG, COND, Direction, Report, Rescale, SoftPAG, Step, guide
from tests import tiny


@pytest.fixture
def report(sd: Any) -> Report:
    """Five calls, two of them guided."""
    with guide(sd, CFG(6.0).between(0.2, 0.6) + Rescale(0.7)) as run:
        tiny.sample(sd, steps=5)
    return run.report


def test_figures(report: Report) -> None:
    assert report.nfe == 7
    assert [record.evaluations for record in report.steps] == [1, 2, 2, 1, 1]
    assert [record.scale for record in report.steps] == [None, 6.0, 6.0, None, None]
    assert report.steps[0].active == ("Rescale",)
    assert report.steps[1].active == ("CFG", "Rescale")
    assert [record.timestep for record in report.steps] == [801, 601, 401, 201, 1]
    assert report.steps[2].edm_sigma == pytest.approx(
        report.steps[2].sigma / (1 - report.steps[2].sigma ** 2) ** 0.5
    )


def test_dict_is_json(report: Report) -> None:
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["nfe"] == 7
    assert data["model"] == "StableDiffusionPipeline"
    assert data["rule"] == "CFG(scale=6.0).between(0.2, 0.6) + Rescale()"
    assert data["steps"][1]["active"] == ["CFG", "Rescale"]


def test_dict_is_json_at_unknown_noise(sd: Any) -> None:
    sd.scheduler = diffusers.IPNDMScheduler()
    native = tiny.sample(sd)
    with guide(sd, CFG(5.0)) as run:
        assert torch.equal(tiny.sample(sd), native)
    data = json.loads(json.dumps(run.report.to_dict(), allow_nan=False))
    assert {(step["sigma"], step["edm_sigma"]) for step in data["steps"]} == {(None, None)}
    with guide(sd, APG(5.0)), pytest.raises(ValueError, match="noise level of this scheduler"):
        tiny.sample(sd)


def test_dict_names_what_was_perturbed(sd: Any) -> None:
    with guide(sd, CFG(5.0) + SoftPAG(2.0, "mid:1")) as run:
        tiny.sample(sd)
    (head,) = run.report.to_dict()["touched"]
    assert head == "mid_block.attentions.0.transformer_blocks.0.attn1:1"
    assert f"perturbed: {head}" in str(run.report)


def test_dict_is_json_at_infinite_noise(sd3: Any) -> None:
    with guide(sd3, CFG(3.0)) as run:
        tiny.sample(sd3, steps=2)
    assert run.report.steps[0].edm_sigma == float("inf")
    assert json.loads(json.dumps(run.report.to_dict(), allow_nan=False))["steps"][0]["sigma"] == 1


def test_csv_has_a_line_per_call(report: Report, tmp_path: Path) -> None:
    report.to_csv(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["evaluations"] for row in rows] == ["1", "2", "2", "1", "1"]
    assert rows[1]["active"] == "CFG Rescale"
    assert rows[0]["scale"] == ""


def test_text_names_rule_model_and_cost(report: Report) -> None:
    first, *lines = str(report).splitlines()
    assert "StableDiffusionPipeline" in first
    assert "7 evaluations per image" in first
    assert len(lines) == 6


def test_plot_writes_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


class PerImage(Direction):
    """Notes a scale of its own for each image, and none for the first once half is done."""

    def guide(self, step: Step) -> torch.Tensor:
        scales = [1.0 + image + step.index for image in range(len(step.x))]
        step.notes["scale"] = [None, *scales[1:]] if step.fraction >= 0.5 else scales
        return step.evaluate(COND)


@pytest.mark.parametrize("images", [1, 2, 12])
def test_scales_of_single_images_are_shown(sd: Any, images: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures: list[Any] = []
    with guide(sd, PerImage()) as run, pytest.MonkeyPatch.context() as patch:
        tiny.sample(sd, num_images_per_prompt=images, generator=torch.Generator(), steps=4)
        tiny.sample(sd, steps=1)
        run.report.steps.append(replace(run.report.steps[0], scale=7.5))
        patch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
        run.report.plot(tmp_path / "report.png")
    axes = figures[0].axes[0]
    lines = [line.get_ydata() for line in axes.lines]
    if images == 12:
        (middle,), (band,) = lines, axes.collections
        assert list(middle) == [6.5, 7.5, 9.0, 10.0, 1.0, 7.5]
        low, high = band.get_datalim(axes.transData).intervaly
        assert (low, high) == (1.0, 15.0)
    else:
        assert len(lines) == images
        assert list(lines[-1][[0, 1, 5]]) == [images, images + 1, 7.5]
        assert all(isnan(scale) for scale in lines[0][2:4])
    shown = [line[28:36].strip() for line in str(run.report).splitlines()[2:]]
    ends = {1: ["1", "2", "-", "-"], 2: ["1..2", "2..3", "4", "5"]}
    assert shown == [*ends.get(images, ["1..12", "2..13", "4..14", "5..15"]), "1", "7.5"]
