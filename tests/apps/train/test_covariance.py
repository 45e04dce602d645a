"""``diffusteer train covariance``."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from apps.cli import app
from personalize.core.backbones import backbone_of
from personalize.covariance import Covariance, estimate_covariance
from tests.tiny import sd


def _invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["train", "covariance", *map(str, arguments)])


def test_it_writes_what_the_function_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sd()
    monkeypatch.setattr("apps.pipelines.load_pipeline", lambda *_, **__: pipe)
    monkeypatch.setattr("apps.train.covariance.quiet", lambda: None)
    (tmp_path / "captions.txt").write_text("red fox\ngrey cat\n", encoding="utf-8")
    out = tmp_path / "new" / "c.safetensors"
    shown = _invoke("--captions", tmp_path / "captions.txt", "--out", out, "--shrinkage", "0.1")
    assert shown.exit_code == 0, shown.output
    assert f"{out}: 32 x 32, over 2 captions" in shown.output
    expected = estimate_covariance(pipe, ("red fox", "grey cat"), shrinkage=0.1)
    found = Covariance.load(out)
    assert found.digest == expected.digest
    found.check(backbone_of(pipe).pipe)
    told = _invoke(
        *("--captions", tmp_path / "captions.txt", "--out", out, "--shrinkage", "0.1", "--json")
    )
    assert json.loads(told.stdout) == {
        "file": str(out),
        "size": 32,
        "captions": 2,
        "positions": "all",
        "clip_skip": None,
        "digest": expected.digest,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "c.pt"), "out must be a .safetensors file to write, found 'c.pt'"),
        (("--out", "c.safetensors", "--captions", "missing.txt"), "missing.txt"),
        (("--out", "c.safetensors", "--model", "nothing"), "model 'nothing' not found"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = _invoke(*arguments)
    assert shown.exit_code == 2
    assert message in shown.output and len(shown.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
