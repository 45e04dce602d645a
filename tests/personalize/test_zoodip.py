"""ZOODiP: steps against the algorithm written out, and what they need not."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personalize import DataSettings, TrainSettings, train
from personalize.core.backbone import Backbone
from personalize.core.loading import load, unload
from personalize.core.method import Batch
from personalize.core.quantize import quantize
from personalize.zeroth_order import gradient_estimate, norm_correction, removed_directions
from personalize.zoodip import ZOODiP
from tests.personalize.core.dummy import photos
from tests.personalize.core.test_backbone import FAMILIES
from tests.personalize.test_textual_inversion import batch, context, weights
from tests.tiny import sample, sd, sdxl

PROMPTS = ("a {}", "{} b")


def _started(pipe: Any, **settings: Any) -> tuple[Any, Backbone]:
    begun = context(pipe, PROMPTS)
    return ZOODiP("<c>", "a", **{"quantize": False} | settings).start(begun), begun.backbone


def _theta(training: Any) -> Tensor:
    return torch.cat([rows.detach().flatten() for rows in training.parameters.values()])


def _batches(backbone: Backbone, step: int) -> list[Batch]:
    return [batch(backbone, 2 * step, PROMPTS), batch(backbone, 2 * step + 1, PROMPTS[:1])]


def _loss(training: Any, theta: Tensor, batches: Sequence[Batch]) -> float:
    """The loss of the samples of all batches at some vectors, and the vectors back."""
    before, flat = _theta(training), list(training.parameters.values())
    with torch.no_grad():
        for rows, part in zip(flat, theta.split([r.numel() for r in flat]), strict=True):
            rows.copy_(part.view_as(rows))
        value = float(torch.cat([training.loss(one) for one in batches]).mean())
        for rows, part in zip(flat, before.split([r.numel() for r in flat]), strict=True):
            rows.copy_(part.view_as(rows))
    return value


@pytest.mark.parametrize("make", [sd, sdxl])
@pytest.mark.parametrize("corrected", [True, False])
def test_steps_are_the_algorithm_written_out(make: Any, corrected: bool) -> None:
    """Algorithms 1 and 2 with Adam from its equations, over two changes of the subspace."""
    tau, nu, n, mu, lr = 3, 0.5, 2, 1e-2, 0.05
    training, backbone = _started(
        make(), num_vectors=2, directions=n, mu=mu, history=tau, nu=nu, norm_correction=corrected
    )
    other, _ = _started(make(), num_vectors=2)
    theta = _theta(training).double()
    widths = [rows.shape[1] for rows in training.parameters.values() for _ in rows]
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    removed = [torch.zeros(0, width) for width in widths]
    past: list[Tensor] = []
    for step in range(2 * tau + 1):
        batches = _batches(backbone, step)
        log = training.step(batches, lr)
        e = torch.randn((n, len(theta)), generator=batches[0].generator())
        assert log["loss"] == pytest.approx(_loss(other, theta.float(), batches), rel=1e-4)
        g = gradient_estimate(lambda t, b=batches: _loss(other, t, b), theta.float(), e, mu)  # type: ignore[misc]
        if corrected:
            g = g / norm_correction(len(theta) - sum(map(len, removed)), n)
        parts = zip(g.split(widths), removed, strict=True)
        g = torch.cat([part - (part @ p.T) @ p for part, p in parts]).double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        theta = theta - lr * m_hat / (v_hat.sqrt() + 1e-3)
        # The same vectors on both sides, so that rounding does not add up over the steps.
        torch.testing.assert_close(_theta(training), theta.float(), rtol=1e-3, atol=1e-3)
        state = training.state()
        means = [state[f"adam.{key}.exp_avg"].flatten() for key in training.parameters]
        torch.testing.assert_close(torch.cat(means), m.float(), rtol=2e-3, atol=2e-5)
        theta = _theta(training).double()
        past.append(_theta(training))
        if (step + 1) % tau == 0:
            columns = zip(*(one.split(widths) for one in past), strict=True)
            removed = [removed_directions(torch.stack(one), nu) for one in columns]
            past = []
            assert sum(map(len, removed)) > 0
    training.stop()
    other.stop()


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_only_the_vectors_move_and_no_graph_is_built(name: str, quantize: bool) -> None:
    pipe = FAMILIES[name]()
    before, words = weights(pipe), pipe.tokenizer.get_vocab()
    training, backbone = _started(pipe, quantize=quantize)
    start = _theta(training)
    graphs: list[bool] = []
    handle = backbone.denoiser.register_forward_hook(
        lambda *_: graphs.append(torch.is_grad_enabled())
    )
    for step in range(2):
        training.step(_batches(backbone, step), 0.01)
    handle.remove()
    moved = _theta(training)
    assert len(graphs) == 2 * 2 * 3 and not any(graphs)
    assert bool((moved != start).all())
    training.stop()
    after = weights(pipe)
    assert after.keys() == before.keys() and pipe.tokenizer.get_vocab() == words
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_pipeline_that_nobody_needs_is_left_in_int8() -> None:
    pipe = sd()
    begun = replace(context(pipe, PROMPTS), owned=True)
    training = ZOODiP("<c>", "a").start(begun)
    training.stop()
    assert not any(type(m) in (nn.Linear, nn.Conv2d) for m in pipe.unet.modules())
    assert not any(type(m) in (nn.Linear, nn.Conv2d) for m in pipe.text_encoder.modules())
    assert isinstance(pipe.text_encoder.get_input_embeddings(), nn.Embedding)


def test_weights_of_a_path_go_once_they_are_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sd().save_pretrained(tmp_path / "sd")
    (tmp_path / "templates.txt").write_text("a {}")
    floats: list[weakref.ref[Tensor]] = []
    there: list[int] = []

    def noting(network: nn.Module, keep: bool) -> Any:
        layers: list[Any] = [m for m in network.modules() if type(m) in (nn.Linear, nn.Conv2d)]
        floats.extend(weakref.ref(layer.weight) for layer in layers)
        layers.clear()
        return quantize(network, keep=keep)

    monkeypatch.setattr("personalize.zoodip.quantize", noting)
    train(
        tmp_path / "sd",
        ZOODiP("<c>", "a"),
        photos(tmp_path / "photos"),
        tmp_path / "out",
        TrainSettings(max_train_steps=1),
        DataSettings(resolution=16, templates=tmp_path / "templates.txt"),
        lambda progress: there.append(sum(weight() is not None for weight in floats)),
    )
    assert len(floats) > 50 and there[-1] == 0


def test_a_step_at_no_rate_leaves_every_bit() -> None:
    training, backbone = _started(sd())
    start = _theta(training)
    for step in range(5):
        training.step(_batches(backbone, step), 0.0)
    assert torch.equal(_theta(training), start)
    training.stop()


def test_all_evaluations_of_a_step_see_the_same_sample() -> None:
    training, backbone = _started(sd(), directions=4)
    seen: list[tuple[Any, ...]] = []
    handle = backbone.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    training.step(_batches(backbone, 0), 0.01)
    handle.remove()
    assert len(seen) == 2 * 5
    for number, (noisy, timesteps) in enumerate(seen):
        first, when = seen[number % 2]
        assert torch.equal(noisy, first) and torch.equal(timesteps, when)
    training.stop()


def test_processes_exchange_losses_alone() -> None:
    begun = context(sd(), PROMPTS)
    exchanged: list[Tensor] = []

    def mean(value: Tensor) -> Tensor:
        exchanged.append(value)
        return value

    training: Any = ZOODiP("<c>", "a", quantize=False).start(replace(begun, mean=mean))
    training.step(_batches(begun.backbone, 0), 0.01)
    assert [value.numel() for value in exchanged] == [1, 1, 1]
    training.stop()


def test_a_restored_state_goes_on_as_before() -> None:
    settings = {"history": 3, "nu": 0.3, "num_vectors": 2}
    whole, backbone = _started(sd(), **settings)
    for step in range(5):
        whole.step(_batches(backbone, step), 0.05)
    training, other = _started(sd(), **settings)
    with torch.no_grad():
        for name, rows in training.parameters.items():
            rows.copy_(whole.parameters[name])
    training.restore({name: value.clone() for name, value in whole.state().items()})
    for step in range(5, 9):
        whole.step(_batches(backbone, step), 0.05)
        training.step(_batches(other, step), 0.05)
    assert torch.equal(_theta(training), _theta(whole))
    whole.stop()
    training.stop()


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    training, backbone = _started(sd())
    start, state = _theta(training), training.state()
    broken = [replace(one, target=one.target * torch.nan) for one in _batches(backbone, 0)]
    log = training.step(broken, 0.1)
    assert log["loss"] != log["loss"]
    assert torch.equal(_theta(training), start)
    assert state.keys() == training.state().keys()
    training.stop()


def test_an_error_leaves_the_vectors_as_they_were() -> None:
    training, backbone = _started(sd())
    start, calls = _theta(training), []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")

    handle = backbone.denoiser.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.step(_batches(backbone, 0), 0.1)
    handle.remove()
    assert torch.equal(_theta(training), start)
    training.stop()


def test_the_loss_of_one_sample_falls() -> None:
    training, backbone = _started(sd(), directions=4)
    one = [batch(backbone, 0, PROMPTS)]
    start = training.step(one, 0.0)["loss"]
    for _ in range(30):
        end = training.step(one, 0.1)["loss"]
    assert end < 0.99 * start
    training.stop()


def test_the_file_loads_as_a_textual_inversion(tmp_path: Any) -> None:
    pipe = sdxl()
    training, backbone = _started(pipe, num_vectors=2)
    training.step(_batches(backbone, 0), 0.1)
    artifact = training.artifact()
    training.stop()
    before = sample(pipe, prompt=["a b"])
    artifact.save(tmp_path)
    assert load(pipe, tmp_path / "learned_embeds.safetensors").words == ("<c>", "<c>_1")
    assert not torch.equal(sample(pipe, prompt=["a <c>"]), before)
    unload(pipe)


def test_perturbations_too_short_to_matter_are_said() -> None:
    training, backbone = _started(sd(), mu=1e-30, directions=25)
    with pytest.warns(UserWarning, match="50 of 50 perturbations did not change the loss; set mu"):
        for step in range(2):
            training.step(_batches(backbone, step), 0.01)
    training.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_vectors": 0}, "num_vectors must be a whole number from 1 up, found 0"),
        ({"directions": 0}, "directions must be a whole number from 1 up"),
        ({"history": 0}, "history must be a whole number from 1 up"),
        ({"mu": 0.0}, "mu must be a finite number above 0"),
        ({"mu": float("inf")}, "mu must be a finite number above 0"),
        ({"nu": 1.5}, "nu must be a finite number from 0 to 1, found 1.5"),
        ({"placeholder_token": "two words"}, "without spaces"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZOODiP(**{"placeholder_token": "<c>"} | settings)
