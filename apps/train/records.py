"""What a model predicts on its way to pictures, recorded: of real pictures, and of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from apps.evaluate.pictures.processes import Processes
from apps.generate import Call
from apps.pipelines import call_parameters
from apps.train.data import Data
from apps.train.encode import Encode
from apps.training.state import write_tensors
from guidance import UNCOND, Rule, guide
from guidance.cfg import cfg
from guidance.core.fingerprint import weights_hash
from guidance.core.prediction import COND, Branch, Step, wide

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How predictions are recorded.

    Attributes:
        steps: most denoising steps; each batch takes some number from half of them up, so that
            many noise levels are seen.
        keep: steps of each batch that are recorded, chosen at random.
        scales: lowest and highest guidance scale; each picture has its own. Both 1 for a model
            that needs no unconditional branch.
        batch_size: pictures made at once.
        seed: of everything random.
    """

    steps: int
    keep: int
    scales: tuple[float, float]
    batch_size: int
    seed: int


@dataclass
class _Seen:
    """What a run left: some of its predictions, and its last x0, which is the finished picture."""

    kept: list[dict[str, Tensor]] = field(default_factory=list)
    final: Tensor | None = None


@dataclass(frozen=True, repr=False, eq=False)
class _Recording(Rule):
    """Classifier-free guidance that keeps what it sees, and what the model makes of real pictures.

    Args:
        encode: latents of the real pictures for a step.
        scales: of each picture, ``(B,)``; None for a model without an unconditional branch.
        keep: calls of a run to record.
        generators: one for each picture.
        seen: what is kept.
    """

    encode: Callable[[Step], Tensor]
    scales: Tensor | None
    keep: int
    generators: list[torch.Generator]
    seen: _Seen

    def needs(self, step: Step) -> tuple[Branch, ...]:
        return () if self.scales is None else (UNCOND,)

    def predict(self, step: Step) -> Tensor:
        cond = step.evaluate(COND)
        guided = cond
        if self.scales is not None:
            uncond = step.evaluate(UNCOND)
            guided = cfg(uncond, cond, self.scales.to(cond.device))
        if step.index == 0:
            order = torch.randperm(step.count, generator=self.generators[0])
            step.memory["kept"] = set(order[: self.keep].tolist())
            step.memory["real"] = self.encode(step)
        if step.alpha == 0 and step.prediction_type == "epsilon":
            return guided  # pure noise, of which it predicts no x0
        self.seen.final = step.x0(guided)
        if step.index in step.memory["kept"]:
            x = self._noised(step)
            real = replace(step, x=x).x0(step.denoise(x.to(step.x.dtype)))
            level = torch.full((len(x),), step.edm_sigma).log()
            kept = {"real": real, "cond": step.x0(cond), "level": level}
            if self.scales is not None:
                kept["uncond"] = step.x0(uncond)
            self.seen.kept.append(kept)
        return guided

    def _noised(self, step: Step) -> Tensor:
        """The real pictures in the noise of this step, ``alpha z + sigma eps``."""
        z = step.memory["real"]
        eps = torch.stack([torch.randn(z.shape[1:], generator=g) for g in self.generators])
        return step.alpha * z + step.sigma * eps.to(z.device)

    def __repr__(self) -> str:
        return "recording"


class Records:
    """Predictions of x0, read from the files of :func:`record` as they are asked for.

    Attributes:
        level: ``log(sigma / alpha)`` of each record, ``(N,)``.
        row: number of its picture, ``(N,)``.
        scale: guidance scale of the run that it is from, ``(N,)``.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts = [load_file(path) for path in files]
        for name in ("level", "row", "scale"):
            setattr(self, name, torch.cat([part[name] for part in self._parts]))
        sizes = [len(part["level"]) for part in self._parts]
        self._place = [(part, at) for part, size in enumerate(sizes) for at in range(size)]

    level: Tensor
    row: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self._place)

    @cached_property
    def guided(self) -> bool:
        """Whether the model has an unconditional branch."""
        return all("uncond" in part for part in self._parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of a prediction."""
        return tuple(self._parts[0]["real"].shape[1:])

    def real(self, records: Tensor) -> Tensor:
        """What the model sees in real pictures in noise, at scale 1, ``(n, ...)`` in float32."""
        return self._taken("real", records)

    def generated(self, records: Tensor, scale: Tensor) -> Tensor:
        """What it sees in its own pictures at these guidance scales ``(n,)``, ``(n, ...)``."""
        cond = self._taken("cond", records)
        return cfg(self._taken("uncond", records), cond, scale) if self.guided else cond

    def finals(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and finished latents of the generated pictures, part by part."""
        return [(part["pictures"], part["final"].float()) for part in self._parts]

    def _taken(self, name: str, records: Tensor) -> Tensor:
        places = [self._place[record] for record in records.tolist()]
        return torch.stack([self._parts[part][name][at] for part, at in places]).float()


def record(
    pipe: Any, data: Data, plan: Plan, processes: Processes, folder: Path, origin: dict[str, Any]
) -> list[Path]:
    """Record the predictions of a pipeline over all pictures, or what is lacking of them.

    Args:
        pipe: any pipeline that ``guide`` knows, with latents or pixels ``(B, C, H, W)``.
        data: real pictures; their captions are drawn where the pipeline takes prompts.
        plan: how.
        processes: who shares the work.
        folder: where the files are, one for each batch of pictures, each whole or absent.
        origin: all that decides what the model predicts, see :func:`origin_of`.

    Returns:
        The files in the order of the pictures.

    Raises:
        ValueError: the pipeline works on something else than pictures of channels, the pictures
            have no captions and it takes prompts, or one of them cannot be read.
    """
    takes = call_parameters(pipe)
    if not {"prompt", "batch_size"} & set(takes):
        raise ValueError(
            f"{type(pipe).__name__} takes neither prompts nor a batch_size: it draws from "
            "something else, and no evaluator can be trained for it"
        )
    prompts = data.texts if "prompt" in takes else None
    origin = origin | asdict(plan) | {"format": _FORMAT}
    del origin["batch_size"]  # the pictures of a batch are hashed below
    files: dict[Path, range] = {}
    for start in range(0, len(data), plan.batch_size):
        rows = range(start, min(start + plan.batch_size, len(data)))
        own = {"start": start, "pictures": data.pictures.digests[start : rows.stop]}
        texts = prompts and {"texts": prompts[start : rows.stop]}
        about = json.dumps(origin | own | (texts or {}), sort_keys=True)
        name = hashlib.sha256(about.encode()).hexdigest()[:24]
        files[folder / f"{name}.safetensors"] = rows
    lacking = processes.once(lambda: _lacking(folder, list(files)))
    encode = Encode(pipe)

    def make(paths: Sequence[Path]) -> None:
        for path in paths:
            rows = files[path]
            tensors = _recorded(pipe, data, prompts, rows, plan, encode)
            write_tensors(path, tensors, {"origin": json.dumps(origin)})

    for _ in processes.spread(lacking, make, 1, "recording predictions", unit="batch"):
        pass
    return list(files)


def origin_of(pipe: Any) -> dict[str, Any]:
    """What decides the predictions of a pipeline: its weights, scheduler and precision."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    config = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
    return {
        "pipeline": type(pipe).__name__,
        "weights": {name: weights_hash(part) for name, part in sorted(parts.items())},
        "scheduler": [type(pipe.scheduler).__name__, json.dumps(config, default=str)],
        "dtype": str(pipe.dtype),
    }


def _lacking(folder: Path, files: Sequence[Path]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [path for path in files if not _whole(path)]


def _whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return "final" in file.keys()  # noqa: SIM118
    except Exception:  # absent, or cut short by a full disk
        return False


@torch.no_grad()
def _recorded(
    pipe: Any,
    data: Data,
    prompts: Sequence[str] | None,
    rows: range,
    plan: Plan,
    encode: Encode,
) -> dict[str, Tensor]:
    """The tensors of one file: of each picture some records, and the finished latents."""
    seeds = [plan.seed * 1_000_003 + 2 * row for row in rows]
    generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
    low, high = plan.scales
    guided = prompts is not None and plan.scales != (1.0, 1.0)
    scales = torch.stack([low + (high - low) * torch.rand((), generator=g) for g in generators])
    fewest = plan.steps // 2 + plan.steps % 2
    more = torch.randint(plan.steps - fewest + 1, (), generator=generators[0])
    seen = _Seen()
    paths = [data.pictures.path / data.pictures.names[row] for row in rows]
    latents = partial(encode, paths, generators)
    rule = _Recording(latents, scales if guided else None, plan.keep, generators, seen)
    call: dict[str, Any] = Call(steps=fewest + int(more), guided=guided).arguments(pipe, len(rows))
    if prompts is None:
        call["batch_size"] = len(rows)
    else:
        call["prompt"] = [prompts[row] for row in rows]
    call["output_type"] = "latent" if prompts is not None else "np"
    with guide(pipe, rule):
        pipe(generator=[torch.Generator().manual_seed(seed) for seed in seeds], **call)
    kept = seen.kept
    if not kept or seen.final is None:
        raise ValueError(f"{type(pipe).__name__} gave no prediction to record; take more --steps")
    half = {name: torch.cat([wide(each[name]).half() for each in kept]) for name in kept[0]}
    return half | {
        "level": torch.cat([each["level"] for each in kept]),
        "row": torch.tensor(rows).repeat(len(kept)),
        "scale": scales.repeat(len(kept)),
        "pictures": torch.tensor(rows),
        "final": seen.final.half(),
    }
