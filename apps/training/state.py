"""What a training run is and keeps: its recipe, and its state in one safetensors file."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apps.training.optim import Optimizer


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: linear warm-up, then linear decay to ``final`` times ``lr``."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    final: float = 0.03
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    bf16: bool = False

    def lr_at(self, step: int) -> float:
        """Learning rate of step ``step`` (0 is the first)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (1 - done * (1 - self.final))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that is whole or absent."""
    temporary = path.with_suffix(".tmp")
    save_file(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata
    )
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_state(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    recipe: Recipe,
    seed: int,
    step: int,
) -> None:
    """Write everything that a run needs to continue after ``step`` steps."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value.clone() for name, value in average.items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.tensors().items()}
    metadata = {"step": str(step), "seed": str(seed), "recipe": json.dumps(asdict(recipe))}
    write_tensors(path, tensors, metadata)


def restore_state(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: Optimizer,
    recipe: Recipe,
    seed: int,
) -> int:
    """Put a saved state into the model, its average and the optimizer; return the steps done.

    Raises:
        ValueError: the state belongs to a run with another recipe or seed.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        found = json.loads(metadata["recipe"]) | {"seed": int(metadata["seed"])}
        wanted = asdict(recipe) | {"seed": seed}
        changed = [
            f"{key} {found.get(key)} -> {wanted[key]}"
            for key in wanted
            if found.get(key) != wanted[key]
        ]
        if changed:
            raise ValueError(
                f"{path} belongs to another run ({', '.join(changed)}); "
                "use the same settings or another folder"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(_under("model.", tensors))
    for name, value in _under("average.", tensors).items():
        average[name].copy_(value)
    optimizer.load(_under("optimizer.", tensors))
    return int(metadata["step"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
