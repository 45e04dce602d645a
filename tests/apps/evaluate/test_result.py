"""Results come back from their files as they were, and nothing else does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.evaluate.result import FORMAT, Images, Result, Score

RESULT = Result(
    protocol="prompts",
    settings={"extractor": {"name": "stub", "mean": [0.5, 0.5]}, "seed": 0, "crop": None},
    scores=(
        Score("clip_t", 0.25, (0.2, 0.3), 3, "mean cosine"),
        Score("fid", 1 / 3, None, 3, "distance", "lower"),
    ),
    images=Images(
        folder="out/001",
        names=("b.png", "a ☆.png"),
        values={"clip_t": [0.25, None]},
        texts=("a “red” star", "a ring"),
        groups=("one", "two"),
    ),
    left_out={"out/001/c.png": "not a picture"},
    provenance={"processes": 1},
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    RESULT.write(path)
    assert Result.read(path) == RESULT
    alone = replace(RESULT, images=None, left_out={}, provenance={})
    alone.write(path)
    assert Result.read(path) == alone
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_null(tmp_path: Path, value: float) -> None:
    score = Score("rarity", value, (value, 1.0), 0, "nats")
    result = replace(RESULT, scores=(score,), settings={"deep": [{"x": value}]})
    result.write(tmp_path / "result.json")

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert content["scores"][0]["value"] is None
    assert content["scores"][0]["interval"] == [None, 1.0]
    assert content["settings"] == {"deep": [{"x": None}]}
    found = Result.read(tmp_path / "result.json").scores[0]
    assert math.isnan(found.value)
    assert found.interval is not None
    assert math.isnan(found.interval[0]) and found.interval[1] == 1
    assert "| rarity | nan | nan to 1 | 0 |" in str(Result.read(tmp_path / "result.json"))


def test_by_metric() -> None:
    assert RESULT["fid"].value == 1 / 3
    with pytest.raises(KeyError, match="no metric 'kid'; measured: clip_t, fid"):
        RESULT["kid"]


def test_table() -> None:
    assert str(RESULT).splitlines()[2:] == [
        "| clip_t | 0.25 | 0.2 to 0.3 | 3 |",
        "| fid | 0.3333 |  | 3 |",
    ]


def _without(key: str) -> str:
    content = RESULT.to_dict()
    del content[key]
    return json.dumps(content)


def _with(**changes: Any) -> str:
    return json.dumps(RESULT.to_dict() | changes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"3",
        b"{}",
        *(_without(key).encode() for key in ("format", "protocol", "settings", "scores", "images")),
        _with(format=FORMAT + "0").encode(),
        _with(future=1).encode(),
        _with(scores=3).encode(),
        _with(scores=[{"metric": "fid"}]).encode(),
        _with(images={"folder": "x"}).encode(),
    ],
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no result of diffusteer evaluate") as caught:
        Result.read(path)
    assert "\n" not in str(caught.value)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read result '.*x\.json': No such file"):
        Result.read(tmp_path / "x.json")
