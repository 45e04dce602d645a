"""The pictures of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from apps import gallery


@pytest.mark.parametrize("picture", gallery.PICTURES, ids=lambda picture: picture.name)
def test_rules_can_be_read_and_columns_agree(picture: gallery.Picture) -> None:
    for text in picture.rules:
        if "'#'" not in text:
            assert gallery._rule(text, None)
    assert len(picture.prompts) == 8
    assert len(picture.negatives) in (0, len(picture.rules))
    assert any(picture.name in text for text in picture.rules)


def test_draws_a_row_for_each_rule_with_its_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "STEPS", 2)
    picture = gallery.Picture("CFG", ("CFG(1)", "CFG(4)", "LinearAG(4, '#')"))
    rows = list(gallery.rows(picture))
    assert [row.label.rpartition(": ")[2] for row in rows] == [
        "2 evaluations",
        "4 evaluations",
        "3 evaluations",
    ]
    assert all(len(row.images) == 8 for row in rows)
    assert rows[0].images[0].tobytes() != rows[1].images[0].tobytes()
    monkeypatch.setattr(gallery, "PICTURES", (picture,))
    result = CliRunner().invoke(gallery.app, ["--out", str(tmp_path / "new")])
    assert result.exit_code == 0
    with Image.open(tmp_path / "new" / "CFG.png") as drawn:
        assert drawn.width > 8 * 64


def test_an_unknown_method_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(gallery.app, ["--only", "DDIM", "--out", str(tmp_path / "new")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "'DDIM'" in result.stderr
    assert not (tmp_path / "new").exists()
