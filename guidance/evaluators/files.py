"""Trained evaluators on disk: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from guidance.core.fingerprint import from_text
from guidance.evaluators.network import MOST_PARAMETERS, Net, NetworkSettings, build

FORMAT = {"format": "diffusteer evaluator", "version": 1}
KINDS = ("alignment", "discriminator", "reward", "classifier", "minority")
INPUTS = ("x0", "noisy")
CONFIG, WEIGHTS = "config.json", "model.safetensors"

_STORED = (torch.float16, torch.float32)
_MOST_BYTES = {CONFIG: 1_000_000, WEIGHTS: 4 * MOST_PARAMETERS + 1_000_000}


@dataclass(frozen=True)
class EvaluatorConfig:
    """What a trained evaluator is, and which models it belongs to.

    Attributes:
        kind: one of ``KINDS``.
        network: shape of its network.
        space: the latents or pixels that it knows, see ``space_of``.
        input: what it judges: predictions of ``"x0"``, or ``"noisy"`` samples.
        denoiser: the one model whose predictions it judges, see ``denoiser_of``; None for any.
        text_encoder: what its text was read with, see ``text_encoder_of``; None without text.
        classes: their names, in the order of the logits; None but for classifiers.
        training: how it was trained and what it scored, any JSON.

    Raises:
        TypeError, ValueError: a value is not of its kind, or does not go with another.
    """

    kind: str
    network: NetworkSettings
    space: Mapping[str, Any]
    input: str = "x0"
    denoiser: Mapping[str, Any] | None = None
    text_encoder: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect("kind", self.kind, self.kind in KINDS, f"one of {', '.join(KINDS)}")
        _expect("input", self.input, self.input in INPUTS, f"one of {', '.join(INPUTS)}")
        _expect("training", self.training, isinstance(self.training, Mapping), "an object")
        _check_origin("space", self.space, _SPACE if "class" in self.space else _PIXELS)
        for name, keys in (("denoiser", _DENOISER), ("text_encoder", _TEXT)):
            value = getattr(self, name)
            if value is not None:
                _check_origin(name, value, keys)
        own = self.kind in ("discriminator", "minority")
        _expect("denoiser", self.denoiser, self.denoiser is not None or not own, "the one it knows")
        self._check_network()
        self._check_classes()

    def _check_network(self) -> None:
        text, reads = self.network.text, self.text_encoder is not None
        allowed = {"alignment": (True,), "reward": (True, False)}.get(self.kind, (False,))
        width = len(from_text(self.text_encoder["features"])) if self.text_encoder else 0
        _expect("text", text, text == width, f"the width {width} of its text_encoder's features")
        _expect("text", text, reads in allowed, "text for alignment, perhaps for rewards, only")
        known = self.space.get("channels", self.space.get("pixels"))
        channels = self.network.channels
        _expect("channels", channels, channels == known, f"the {known} of its space")
        if self.kind in ("discriminator", "reward"):
            _expect("outputs", self.network.outputs, self.network.outputs == 1, "1 score")

    def _check_classes(self) -> None:
        classes, outputs = self.classes, self.network.outputs
        if self.kind not in ("classifier", "minority"):
            _expect("classes", classes, classes is None, "none for this kind")
            return
        named = isinstance(classes, Sequence) and not isinstance(classes, str)
        names = tuple(classes) if named and classes else ()
        good = all(isinstance(name, str) and name.strip() for name in names)
        good = good and len(names) == outputs >= 2 and len(set(names)) == outputs
        _expect("classes", classes, good, f"{outputs} different names")
        object.__setattr__(self, "classes", names)

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON types, with the format's name and version."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        classes = None if self.classes is None else list(self.classes)
        return {**FORMAT, **own, "network": self.network.to_dict(), "classes": classes}

    @staticmethod
    def from_dict(values: Any) -> EvaluatorConfig:
        """What ``to_dict`` gave; raises ValueError or TypeError for anything else."""
        if not isinstance(values, dict) or values.get("format") != FORMAT["format"]:
            raise ValueError("it describes something else")
        _expect("version", values.get("version"), values.get("version") == 1, "1")
        _exact_keys("config", values, {*FORMAT, *(item.name for item in fields(EvaluatorConfig))})
        network = values["network"]
        _expect("network", network, isinstance(network, dict), "an object")
        _exact_keys("network", network, {item.name for item in fields(NetworkSettings)})
        own = {name: value for name, value in values.items() if name not in FORMAT}
        return EvaluatorConfig(**own | {"network": NetworkSettings(**network)})


@dataclass(frozen=True, eq=False)
class TrainedEvaluator:
    """A network, in eval mode and float32, with its config."""

    net: Net
    config: EvaluatorConfig


def save_evaluator(
    folder: str | Path, net: Net, config: EvaluatorConfig, dtype: torch.dtype = torch.float16
) -> None:
    """Write an evaluator; whoever reads it finds the old one, the new one, or none.

    Args:
        folder: where its two files go; made if need be.
        net: its network, as ``build(config.kind, config.network)`` gave it.
        config: what it is.
        dtype: of the weights in the file, float16 or float32.

    Raises:
        ValueError: another dtype, weights that are not finite in it or do not fit the config.
        OSError: the folder cannot be written.
    """
    if dtype not in _STORED:
        raise ValueError(f"save_evaluator: dtype must be float16 or float32, found {dtype}")
    weights = {
        name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in net.state_dict().items()
    }
    _check_weights(weights, config)
    text = json.dumps(config.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # never new weights beside an old config
    _write_whole(folder / WEIGHTS, save_tensors(weights))
    _write_whole(folder / CONFIG, text.encode())


def load_evaluator(folder: str | Path) -> TrainedEvaluator:
    """Read what ``save_evaluator`` wrote.

    Raises:
        ValueError: the folder holds no such evaluator; one line that names it and says why.
    """
    try:
        path = Path(folder)
        config = EvaluatorConfig.from_dict(_json(_bytes(path / CONFIG)))
        content = _bytes(path / WEIGHTS)
        try:
            weights = load_tensors(content)
        except SafetensorError as error:
            raise ValueError(f"its {WEIGHTS} is no safetensors file: {error}") from error
        net = _check_weights(weights, config)
    except (ValueError, TypeError, OSError, RecursionError) as error:
        reason = " ".join(f"{getattr(error, 'strerror', None) or error}".split())
        raise ValueError(
            f"{str(folder)!r} must be an evaluator that `diffusteer train evaluator` wrote, but it "
            f"cannot be used ({reason:.300})"
        ) from error
    net.load_state_dict(weights)
    return TrainedEvaluator(net.eval(), config)


def _bytes(path: Path) -> bytes:
    """Content of one of the two files."""
    if not path.is_file():
        raise ValueError(f"it has no {path.name}")
    if (size := path.stat().st_size) > _MOST_BYTES[path.name]:
        raise ValueError(
            f"its {path.name} has {size} bytes, expected at most {_MOST_BYTES[path.name]}"
        )
    return path.read_bytes()


def _json(content: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"found {constant}")

    try:
        return json.loads(content.decode(), parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"its {CONFIG} is no JSON: {error}") from error


def _check_weights(weights: Mapping[str, Tensor], config: EvaluatorConfig) -> Net:
    """The network of a config, which takes weights of these names and shapes.

    Raises:
        ValueError: it does not; too many parameters; another dtype; a weight that is not finite.
    """
    net = build(config.kind, config.network)
    expected = net.state_dict()
    _exact_keys("model", weights, set(expected))
    for name, weight in weights.items():
        shape = tuple(expected[name].shape)
        _expect(name, tuple(weight.shape), tuple(weight.shape) == shape, f"shape {shape}")
        _expect(name, weight.dtype, weight.dtype in _STORED, "float16 or float32")
        if not bool(weight.isfinite().all()):
            raise ValueError(f"{name} is not finite everywhere")
    return net


def _expect(name: str, found: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"its {name} must be {expected}, found {found!r:.80}")


def _exact_keys(where: str, values: Mapping[str, Any], expected: set[str]) -> None:
    if lacking := expected - values.keys():
        raise ValueError(f"its {where} lacks {min(lacking)}")
    if unknown := values.keys() - expected:
        raise ValueError(f"its {where} has an unknown {min(unknown)!r:.80}")


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and bool(value) and all(map(_number, value)))


def _digits(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and len(from_text(value)) > 0


def _fingerprint(value: Any) -> bool:
    return isinstance(value, str) and value.count(":") == 1 and _digits(value.split(":")[1])


_PIXELS: dict[str, Check] = {"pixels": _whole}
_SPACE: dict[str, Check] = {
    "class": _text,
    "channels": _whole,
    "scaling_factor": _number,
    "shift_factor": _number,
    "latents_mean": _numbers,
    "latents_std": _numbers,
    "weights": _fingerprint,
}
_DENOISER: dict[str, Check] = {"class": _text, "weights": _fingerprint}
_TEXT: dict[str, Check] = {"class": _text, "features": _digits}


def _check_origin(name: str, value: Any, checks: Mapping[str, Check]) -> None:
    """Raise ValueError unless a description of a model has exactly these, each of its kind."""
    _expect(name, value, isinstance(value, Mapping), "an object")
    _exact_keys(name, value, set(checks))
    for key, check in checks.items():
        _expect(f"{name}: {key}", value[key], check(value[key]), "as save_evaluator writes it")
