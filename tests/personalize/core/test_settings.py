"""Settings: every problem at once, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from personalize.core.config import assign, checked, read_config
from personalize.core.optimizer import Rate
from personalize.core.settings import DataSettings, TrainSettings


@dataclass(frozen=True)
class Method:
    token: str
    vectors: int = 1
    betas: tuple[float, ...] = (0.9, 0.999)
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.vectors > 16:
            raise ValueError(f"vectors must be at most 16, found {self.vectors}")


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"learning_rat": 1}, "train.learning_rat: there is no such setting"),
    ({"learning_rate": "fast"}, "train.learning_rate: .* valid number, found 'fast'"),
    ({"learning_rate": 0}, "train.learning_rate: .* greater than 0, found 0"),
    ({"learning_rate": float("nan")}, "train.learning_rate: .* finite"),
    ({"max_train_steps": 3.0}, "train.max_train_steps: .* integer, found 3.0"),
    ({"max_train_steps": "3"}, "train.max_train_steps: .* integer, found '3'"),
    ({"max_train_steps": True}, "train.max_train_steps: .* integer, found True"),
    ({"seed": -1}, "train.seed: .*found -1"),
    ({"scale_lr": 1}, "train.scale_lr: .* boolean, found 1"),
    ({"lr_scheduler": "sine"}, "train.lr_scheduler: .*'cosine'.* found 'sine'"),
    ({"mixed_precision": "fp8"}, "train.mixed_precision: .*'bf16'.* found 'fp8'"),
    ({"ema_decay": 1}, "train.ema_decay: .* less than 1, found 1"),
    ({"use_8bit_adam": True}, "train.use_8bit_adam: needs bitsandbytes"),
    ({"report_to": "tensorboard"}, "train.report_to: needs tensorboard; pip install tensorboard"),
    ({"report_to": "aim"}, "train.report_to: .*'tensorboard' or 'wandb', found 'aim'"),
    ({"timestep_low": 9, "timestep_high": 9}, "train: timestep_low must be below .* 9 and 9"),
]


@pytest.mark.parametrize(("settings", "problem"), PROBLEMS)
def test_problem(settings: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.core.settings.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=f"^{problem}"):
        checked({"train": (TrainSettings, settings)})
    with pytest.raises(ValueError):
        TrainSettings(**settings)


def test_all_problems_at_once() -> None:
    with pytest.raises(ValueError) as error:
        checked(
            {
                "method": (Method, {"vectors": "two", "tokens": "<a>"}),
                "train": (TrainSettings, {"seed": "a", "max_steps": 3}),
                "data": (DataSettings, {"flip": 2, "crop": "left"}),
                "other": (Method, {"token": "<a>", "vectors": 17}),
                "table": (DataSettings, 3),
            }
        )
    lines = str(error.value).split("; ")
    assert [line.partition(":")[0] for line in lines] == [
        "method.token",
        "method.vectors",
        "method.tokens",
        "train.seed",
        "train.max_steps",
        "data.crop",
        "data.flip",
        "other",
        "table",
    ]
    assert lines[0] == "method.token: must be given"
    assert lines[7] == "other: vectors must be at most 16, found 17"


def test_method() -> None:
    """What files can hold: lists for tuples, texts for paths; what is not given is left out."""
    made = checked({"m": (Method, {"token": "<a>", "betas": [0, 1], "file": "a/b"})})["m"]
    assert made == Method("<a>", betas=(0.0, 1.0), file=Path("a/b"))


def test_preferring() -> None:
    defaults = {"learning_rate": 0.5, "max_train_steps": 7}
    preferred = TrainSettings(learning_rate=0.1).preferring(defaults)
    assert preferred == TrainSettings(learning_rate=0.1, max_train_steps=7)
    assert TrainSettings(learning_rate=5e-4).preferring(defaults).learning_rate == 5e-4
    with pytest.raises(ValueError, match="max_train_steps"):
        TrainSettings().preferring({"max_train_steps": 0})


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainSettings().seed = 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '[train]\nlearning_rate = 1e-3\nmixed_precision = "no"\n[method]\nvectors = 2'),
        ("a.yaml", "train:\n  learning_rate: 1e-3\n  mixed_precision: no\nmethod: {vectors: 2}"),
        (
            "a.yml",
            "\ufefftrain: {learning_rate: 0.001, mixed_precision: 'no'}\nmethod:\n  vectors: 2",
        ),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_config(tmp_path / name) == {
        "train": {"learning_rate": 1e-3, "mixed_precision": "no"},
        "method": {"vectors": 2},
    }


def test_yaml_values(tmp_path: Path) -> None:
    """YAML 1.2: numbers with exponents, and words that are no truth values."""
    (tmp_path / "a.yaml").write_text(
        "a: [5e-4, 1.5, .5, 3, -2, 1E6, 1.e3, true, False, yes, on, n, 1.2.3, e5, null, 12e, trues]"
    )
    found = read_config(tmp_path / "a.yaml")["a"]
    assert found == [
        *(5e-4, 1.5, 0.5, 3, -2, 1e6, 1e3, True, False),
        *("yes", "on", "n", "1.2.3", "e5", None, "12e", "trues"),
    ]
    assert [type(value) for value in found[:5]] == [float, float, float, int, int]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.toml", "a = ", "cannot read config file .*a.toml"),
        ("a.toml", "a = 1\na = 2", "cannot read config file"),
        ("a.yaml", "a: [1", "cannot read config file .*a.yaml"),
        ("a.yaml", "!!python/object/apply:os.system ['touch here']", "could not determine"),
        ("a.yaml", "!!python/name:os.system", "could not determine a constructor"),
        ("a.yaml", "a: &x [1]\nb: *x", "aliases are not allowed"),
        ("a.yaml", "- 1", "must be a table of settings"),
        ("a.yaml", "1: 2", "must be a table of settings"),
        ("a.yaml", "", "must be a table of settings"),
        ("a.toml", "a = " + "[" * 3000, "cannot read config file"),
        ("a.json", "{}", "must be .toml, .yaml or .yml"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        read_config(tmp_path / name)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read config file .*: No such file"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_config(tmp_path / "b.toml")


def test_assign() -> None:
    tables: dict[str, Any] = {"train": {"seed": 1, "scale_lr": False}}
    assign(
        tables,
        [
            "train.seed=2",
            "train.learning_rate=1e-3",
            "data.crop=random",
            'a.b.c=["x"]',
            "t=<a> b=c",
        ],
    )
    assert tables == {
        "train": {"seed": 2, "scale_lr": False, "learning_rate": 1e-3},
        "data": {"crop": "random"},
        "a": {"b": {"c": ["x"]}},
        "t": "<a> b=c",
    }


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("train.seed", "must be such as train.learning_rate=1e-3, found 'train.seed'"),
        ("=3", "must be such as"),
        ("train..seed=3", "must be such as"),
        ("train.seed.x=3", "'seed' is no table"),
    ],
)
def test_bad_assignments(assignment: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        assign({"train": {"seed": 1}}, [assignment])


def test_a_value_is_no_second_setting() -> None:
    tables: dict[str, Any] = {}
    assign(tables, ["a=1\nb = 2"])
    assert tables == {"a": "1\nb = 2"}


def rates(**settings: Any) -> list[float]:
    rate = Rate(TrainSettings(learning_rate=0.1, max_train_steps=10, **settings), 1)
    return [rate(step) for step in range(10)]


def test_rates() -> None:
    """The schedules of diffusers, from their definitions."""
    from math import cos, pi

    def warm(step: int) -> float:
        return step / 4

    assert rates() == [0.1] * 10
    assert rates(lr_scheduler="constant", lr_warmup_steps=4) == [0.1] * 10
    expected = [0.1 * min(1, warm(step)) for step in range(10)]
    assert rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=4) == pytest.approx(expected)
    expected = [0.1 * (warm(s) if s < 4 else (10 - s) / 6) for s in range(10)]
    assert rates(lr_scheduler="linear", lr_warmup_steps=4) == pytest.approx(expected)
    expected = [0.1 * (warm(s) if s < 4 else (1 + cos(pi * (s - 4) / 6)) / 2) for s in range(10)]
    assert rates(lr_scheduler="cosine", lr_warmup_steps=4) == pytest.approx(expected)
    expected = [0.05 * (1 + cos(pi * (3 * s / 10 % 1))) for s in range(10)]
    assert rates(lr_scheduler="cosine_with_restarts", lr_num_cycles=3) == pytest.approx(expected)
    expected = [(0.1 - 1e-7) * (1 - s / 10) ** 2 + 1e-7 for s in range(10)]
    assert rates(lr_scheduler="polynomial", lr_power=2.0) == pytest.approx(expected)


def test_scaled_rate() -> None:
    settings = TrainSettings(
        learning_rate=0.1, scale_lr=True, train_batch_size=2, gradient_accumulation_steps=3
    )
    assert Rate(settings, 4)(0) == pytest.approx(0.1 * 24)
    assert Rate(TrainSettings(learning_rate=0.1), 4)(0) == 0.1
