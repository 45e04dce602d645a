"""The one training loop.

Everything random in step ``n`` is drawn from a generator seeded with ``(seed, n)``, so a resumed
run is the unbroken run. Under ``accelerate launch`` each process takes its slice of a step's batch
and gradients are averaged, so that several processes are one, but for rounding.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm

from apps.training.batch import Batch, average
from apps.training.optim import Optimizer
from apps.training.state import Recipe, restore_state, save_state, write_tensors

Loss = Callable[[nn.Module, Batch], Tensor]


def train(
    model: nn.Module,
    loss: Loss,
    recipe: Recipe,
    items: int,
    run: Path,
    *,
    seed: int,
    snapshots: tuple[int, ...] = (),
    sample: Callable[[nn.Module, Path], None] | None = None,
    sample_every: int = 1000,
    save_every: float = 120.0,
    device: torch.device | None = None,
) -> nn.Module:
    """Train ``model`` to the end of the recipe, resuming from ``run`` if it holds a state.

    Args:
        model: what to train; its weights are the initial ones, the same in all processes.
        loss: from the model and a batch to a scalar: a mean over the items of the batch, or of
            ``gathered`` rows.
        recipe: schedule and optimizer settings.
        items: number of training items; a batch holds indices below it.
        run: folder of the run's state, log and samples.
        seed: seed of everything random.
        snapshots: steps after which the averaged weights are kept as ``step-N.safetensors``.
        sample: draws what the averaged model makes, every ``sample_every`` steps.
        save_every: seconds between saves of the state.
        device: where to train; None is the first GPU, or the one of this process.

    Returns:
        the model with the averaged weights (the trained ones if ``recipe.ema`` is 0), in eval mode.

    Raises:
        ValueError: ``run`` holds the state of another recipe or seed, or the batch cannot be dealt
            out to the processes.
        FloatingPointError: the loss is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was finished and the state saved.
    """
    processes = PartialState()
    own, count, first = processes.process_index, processes.num_processes, processes.is_main_process
    if recipe.batch % count:
        raise ValueError(
            f"a batch of {recipe.batch} cannot be dealt out to {count} processes: expected a "
            f"multiple, such as {recipe.batch // count * count or count}"
        )
    device = device or processes.device
    run.mkdir(parents=True, exist_ok=True)
    model = model.to(device)
    parameters = list(model.parameters())
    followed = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, recipe.weight_decay)
    start = 0
    state = run / "state.safetensors"
    if state.exists():
        start = restore_state(state, model, followed, optimizer, recipe, seed)
        processes.print(f"resuming {run.name} at step {start} of {recipe.steps}", file=sys.stderr)

    def save(step: int) -> None:
        if first:
            save_state(state, model, followed, optimizer, recipe, seed, step)

    model.train()
    saved, smooth = time.monotonic(), None
    bar = tqdm(
        range(start, recipe.steps),
        desc=run.name,
        initial=start,
        total=recipe.steps,
        mininterval=5,
        disable=not first,
    )
    with _stop_signals() as received:
        for step in bar:
            batch = Batch(step, seed, recipe.batch, items, own, count)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                value = loss(model, batch)
            value.backward()
            number, stopped = _agreed(value, bool(received), parameters)
            if not math.isfinite(number):
                raise FloatingPointError(f"loss of {run.name} is {number} at step {step}")
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step(recipe.lr_at(step))
            smooth = number if smooth is None else 0.98 * smooth + 0.02 * number
            _follow(followed, model, min(recipe.ema, (1 + step) / (10 + step)))
            if first and step % 50 == 0:
                bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
                _log(run, step, smooth, recipe.lr_at(step))
            if first and step + 1 in snapshots:
                write_tensors(
                    run / f"step-{step + 1}.safetensors", followed, {"step": str(step + 1)}
                )
            if first and sample and (step + 1) % sample_every == 0:
                _sample(model, followed, sample, run / f"samples-{step + 1:06d}.png")
            if time.monotonic() - saved > save_every:
                save(step + 1)
                saved = time.monotonic()
            if stopped:
                save(step + 1)
                processes.wait_for_everyone()  # the first to leave would end the others
                raise KeyboardInterrupt
    save(recipe.steps)
    model.load_state_dict(followed)
    return model.eval()


def _agreed(value: Tensor, stopped: bool, parameters: list[nn.Parameter]) -> tuple[float, bool]:
    """The loss over all processes, and whether any was told to stop; gradients are averaged."""
    told = value.detach().clone(), value.new_tensor(float(stopped))
    average([*told, *(each.grad for each in parameters if each.grad is not None)])
    number, share = (float(each) for each in told)
    return number, share > 0


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    received: list[int] = []
    kept = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _follow(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        floats, values = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                floats.append(average[name])
                values.append(value)
            else:
                average[name].copy_(value)
        torch._foreach_lerp_(floats, values, 1 - decay)


def _sample(
    model: nn.Module,
    average: dict[str, Tensor],
    sample: Callable[[nn.Module, Path], None],
    path: Path,
) -> None:
    """Draw a sample grid with the averaged weights, then put the trained ones back."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    model.eval()
    with torch.no_grad():
        sample(model, path)
    model.load_state_dict(kept)
    model.train()


def _log(run: Path, step: int, loss: float, lr: float) -> None:
    with (run / "log.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"step": step, "loss": round(loss, 6), "lr": lr}) + "\n")
