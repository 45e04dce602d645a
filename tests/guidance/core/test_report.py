"""The report of a block: figures, JSON, CSV, text and plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from guidance import APG, CFG, Report, Rescale, SoftPAG, guide
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
