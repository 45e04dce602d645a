"""A resumed run is the unbroken run; what cannot continue is refused."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apps.training.batch import Batch
from apps.training.optim import Optimizer
from apps.training.state import Recipe
from apps.training.trainer import train

RECIPE = Recipe(steps=12, batch=8, lr=1e-2, warmup=3, ema=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 1))


class Loss:
    """Regression on noise, which stops by itself at a step, to order."""

    def __init__(self, kill_at: int | None = None, number: signal.Signals = signal.SIGINT) -> None:
        self.calls, self.kill_at, self.number = 0, kill_at, number

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.calls == self.kill_at:
            os.kill(os.getpid(), self.number)
        self.calls += 1
        x = batch.randn(1, 4, 4)
        return (model(x)[:, 0] - batch.indices / 10).square().mean()


def weights(run: Path, loss: Loss, recipe: Recipe = RECIPE, seed: int = 5) -> list[Tensor]:
    model = train(network(), loss, recipe, 100, run, seed=seed, save_every=1e9)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kill_at", [0, 4, 11])
def test_resumed_run_is_the_unbroken_run(
    tmp_path: Path, kill_at: int, number: signal.Signals
) -> None:
    unbroken = weights(tmp_path / "a", Loss())
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "b", Loss(kill_at, number))
    rest = Loss()
    resumed = weights(tmp_path / "b", rest)
    assert rest.calls == RECIPE.steps - kill_at - 1
    assert all(torch.equal(a, b) for a, b in zip(unbroken, resumed, strict=True))


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    weights(tmp_path, Loss())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("recipe", "seed", "says"),
    [
        (Recipe(steps=13, batch=8, lr=1e-2, warmup=3, ema=0.9), 5, "steps 12 -> 13"),
        (RECIPE, 6, "seed"),
    ],
)
def test_state_of_another_run_is_refused(
    tmp_path: Path, recipe: Recipe, seed: int, says: str
) -> None:
    weights(tmp_path, Loss())
    with pytest.raises(ValueError, match=says):
        weights(tmp_path, Loss(), recipe, seed)


def test_non_finite_loss_stops_before_the_weights_take_it(tmp_path: Path) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]

    def loss(_: nn.Module, batch: Batch) -> Tensor:
        return next(model.parameters()).sum() * float("nan")

    with pytest.raises(FloatingPointError, match="nan at step 0"):
        train(model, loss, RECIPE, 100, tmp_path, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not (tmp_path / "state.safetensors").exists()


def test_learning_rate_warms_up_and_decays_to_its_end() -> None:
    recipe = Recipe(steps=1000, batch=1, lr=2.0, warmup=100, final=0.1)
    assert recipe.lr_at(0) == pytest.approx(0.02)
    assert recipe.lr_at(99) == pytest.approx(2.0)
    assert recipe.lr_at(550) == pytest.approx(1.1)
    assert recipe.lr_at(1000) == pytest.approx(0.2)


def test_average_follows_the_weights(tmp_path: Path) -> None:
    recipe = Recipe(steps=3, batch=8, lr=1e-2, warmup=1, ema=0.999)
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(next(model.parameters()).detach().clone())
        return Loss()(model, batch)

    torch.manual_seed(0)
    model = network()
    expected = next(model.parameters()).detach().clone()
    final = next(train(model, loss, recipe, 100, tmp_path, seed=1).parameters())
    last = train_only_weights(tmp_path)
    for step, value in enumerate([*seen[1:], last]):
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(final, expected, rtol=0, atol=1e-6)


def train_only_weights(run: Path) -> Tensor:
    from safetensors.torch import load_file

    return load_file(run / "state.safetensors")["model.0.weight"]


def test_matrices_move_along_orthogonal_updates_and_vectors_by_adam() -> None:
    layer = nn.Linear(6, 4)
    optimizer = Optimizer(layer, weight_decay=0.0)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer(torch.randn(16, 6)).square().mean().backward()
    optimizer.step(0.1)
    update = (layer.weight - weight) / 0.1
    singular = torch.linalg.svdvals(update)
    assert singular.max() / singular.min() < 2.0
    torch.testing.assert_close((layer.bias - bias).abs(), torch.full((4,), 0.1), rtol=1e-3, atol=0)
    assert layer.weight.grad is None
