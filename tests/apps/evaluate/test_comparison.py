"""Only results of one protocol are compared, and pictures of one name pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apps.evaluate.comparison import Difference, compare, differing, markdown_table
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.result import Images, Result
from apps.evaluate.scores import mean_score, single_pictures

SETTINGS: dict[str, Any] = {"extractor": {"name": "a", "size": {"height": 64}}, "ks": (3, 5)}
NAMES = tuple(f"{number:03}.png" for number in range(60))


def result(
    values: Tensor,
    names: Sequence[str] = NAMES,
    groups: Sequence[str] = (),
    settings: Mapping[str, Any] = SETTINGS,
) -> Result:
    score = mean_score("m", values, "about", groups=groups or None, better="lower")
    folder = Folder(Path("out"), tuple(names), tuple(names))
    images = single_pictures(folder, {"m": values}, groups=groups)
    return Result("p", settings, (score,), images)


def draw(seed: int, count: int = 60) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def refusal(first: Result, second: Result) -> str:
    with pytest.raises(ValueError, match="these results cannot be compared: ") as caught:
        compare(first, second)
    return str(caught.value)


def test_paired_interval() -> None:
    values = draw(0)
    first, second = result(values), result(values + 0.5 + 0.1 * draw(1))
    (found,) = compare(first, second)
    assert (found.metric, found.better) == ("m", "lower")
    assert found.change == pytest.approx(second["m"].value - first["m"].value)
    assert found.interval is not None
    assert found.interval[0] < found.change < found.interval[1]
    assert found.interval[0] < 0.5 < found.interval[1]
    assert width(found.interval) < 0.2 * width(first["m"].interval)


def test_interval_covers() -> None:
    hits = 0
    for seed in range(60):
        values = draw(seed)
        (found,) = compare(result(values), result(values + 1 + draw(1000 + seed)))
        assert found.interval is not None
        hits += found.interval[0] <= 1 <= found.interval[1]
    assert 52 <= hits <= 60


def test_pairs_by_name_whatever_the_order() -> None:
    values, order = draw(0), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    first, second = result(values), result(values + 1)
    shuffled = result((values + 1)[order], [NAMES[row] for row in order])
    assert compare(first, shuffled)[0].interval == pytest.approx((1, 1))
    assert compare(first, second)[0].interval == pytest.approx((1, 1))


def test_unknown_values_are_left_out() -> None:
    one, two = draw(0), draw(0) + 1
    one[3], two[7] = torch.nan, torch.nan
    assert compare(result(one), result(two))[0].interval == pytest.approx((1, 1))
    one[:59] = torch.nan
    assert compare(result(one), result(two))[0].interval is None


def test_groups_are_resampled_and_count_the_same() -> None:
    groups = ["a"] * 58 + ["b", "c"]
    first = torch.zeros(60, dtype=torch.float64)
    second = torch.tensor([0.0] * 58 + [3.0, 6.0], dtype=torch.float64)
    (found,) = compare(result(first, groups=groups), result(second, groups=groups))
    assert found.change == 3
    assert found.interval == (0, 6)  # one resample in nine has only a, or only c


@pytest.mark.parametrize("change", ["name", "group", "fewer", "images", "values"])
def test_other_pictures_have_no_interval(change: str) -> None:
    first = result(draw(0), groups=NAMES)
    second = {
        "name": result(draw(0), [*NAMES[:-1], "x.png"], NAMES),
        "group": result(draw(0), groups=[*NAMES[1:], NAMES[0]]),
        "fewer": result(draw(0, 59), NAMES[:-1], NAMES[:-1]),
        "images": replace(first, images=None),
        "values": replace(first, images=Images("out", NAMES, {}, groups=NAMES)),
    }[change]
    assert compare(first, second)[0].interval is None
    assert compare(second, first)[0].interval is None


def test_equal_results_from_file(tmp_path: Path) -> None:
    first = result(draw(0))
    first.write(tmp_path / "a.json")
    (found,) = compare(first, Result.read(tmp_path / "a.json"))
    assert found.change == 0 and found.interval == (0, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"extractor": {"name": "b", "size": {"height": 64}}}, "extractor.name is 'a' and 'b'"),
        (
            {"extractor": {"name": "a", "size": {"height": 32}}},
            "extractor.size.height is 64 and 32",
        ),
        ({"extractor": {"name": "a"}}, "extractor.size is {'height': 64} and None"),
        ({"extractor": None}, "extractor is {'name': 'a', 'size': {'height': 64}} and None"),
        ({"ks": (3,)}, "ks is [3, 5] and [3]"),
        ({"seed": 1}, "seed is None and 1"),
    ],
)
def test_other_settings(settings: dict[str, Any], expected: str) -> None:
    first, second = result(draw(0)), result(draw(0), settings=SETTINGS | settings)
    assert f"compared: {expected}; evaluate both in the same way" in refusal(first, second)
    refusal(second, first)


def test_all_differences_are_named() -> None:
    first = result(draw(0))
    second = result(draw(0), settings=SETTINGS | {"ks": [], "n": 2})
    assert "ks is [3, 5] and []; n is None and 2;" in refusal(first, second)


def test_of_other_protocols_only_these_are_named() -> None:
    first = result(draw(0))
    second = replace(result(draw(0), settings=SETTINGS | {"ks": []}), protocol="q")
    assert "compared: protocol is 'p' and 'q'; evaluate" in refusal(first, second)


def test_metrics_that_are_no_means_over_pictures_have_no_interval() -> None:
    first = result(draw(0))
    fid = replace(first["m"], metric="fid")
    (row,) = compare(replace(first, scores=(fid,)), replace(first, scores=(fid,)))
    assert (row.change, row.interval) == (0, None)


def test_other_metrics() -> None:
    first = result(draw(0))
    second = replace(first, scores=(replace(first["m"], metric="k"),))
    assert "metrics is ['m'] and ['k']" in refusal(first, second)
    assert "metrics is ['m'] and []" in refusal(first, replace(first, scores=()))


def test_differing() -> None:
    assert list(differing({"a": {"b": 1}}, {"a": {"b": 1}})) == []
    assert list(differing({"a": 1}, {"b": 1})) == ["a is 1 and None", "b is None and 1"]


def test_weights_count_and_not_what_they_are_called() -> None:
    one, two = {"name": "clip:a", "weights": "0a"}, {"name": "clip:b", "weights": "0a"}
    assert list(differing({"extractor": one}, {"extractor": two})) == []
    assert list(differing(one, two | {"weights": "0b"})) == ["weights is '0a' and '0b'"]
    assert list(differing(one, {"name": "clip:b"})) == [
        "name is 'clip:a' and 'clip:b'",
        "weights is '0a' and None",
    ]


def test_table() -> None:
    rows = [Difference("m", 1, 3, "higher", (1.5, 2.5)), Difference("k", 1, 0.5, "lower", None)]
    assert markdown_table(rows).splitlines()[2:] == [
        "| m | 1 | 3 | 2 | 1.5 to 2.5 | higher |",
        "| k | 1 | 0.5 | -0.5 |  | lower |",
    ]
