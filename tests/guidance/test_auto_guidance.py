"""Autoguidance: identities, an exact Gaussian, and each kind of weak version on pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, COND, Rule, Step, guide, linear, perturbed, table, weak
from guidance.auto_guidance import AutoGuidance, autoguide
from guidance.core.families import FAMILIES
from guidance.core.spec import parse_rule
from guidance.core.weaker import Weaker
from guidance.skip_layers import SkipLayers
from tests import tiny
from tests.tiny import close

SHAPES = [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)]


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Good and weak prediction."""
    good, worse = torch.randn(2, *(shape or (3, 4, 5, 5)), dtype=torch.float64)
    return good, worse


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_papers_formula_per_sample(shape: tuple[int, ...]) -> None:
    good, worse = pair(*shape)
    scale = torch.tensor([0.5, 2.0, 3.5], dtype=torch.float64)
    result = autoguide(good, worse, scale)
    for b in range(3):
        expected = worse[b] + scale[b] * (good[b] - worse[b])
        torch.testing.assert_close(result[b], expected)


def test_identities() -> None:
    good, worse = pair()
    assert torch.equal(autoguide(good, worse, 1.0), good)
    torch.testing.assert_close(autoguide(good, worse, 0.0), worse)
    assert torch.equal(autoguide(good, good, 2.9), good)
    mean = (autoguide(good, worse, 1.5) + autoguide(good, worse, 2.5)) / 2
    torch.testing.assert_close(mean, autoguide(good, worse, 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    good, worse = (20000 * torch.randn(2, 2, 4, 8, 8)).clamp(-20000, 20000).to(dtype)
    result = autoguide(good, good + 0.01 * worse, 3.0)
    assert result.dtype == dtype
    assert result.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 2.0, 2.9])
def test_gaussian_becomes_narrower_by_the_closed_form(scale: float) -> None:
    """Scores of N(0, v) and N(0, v + d) at noise s combine into one of known precision."""
    x, v, d, s = torch.randn(4, 8, dtype=torch.float64), 0.3, 0.2, 0.7
    guided = autoguide(-x / (v + s**2), -x / (v + d + s**2), scale)
    precision = scale / (v + s**2) - (scale - 1) / (v + d + s**2)
    torch.testing.assert_close(guided, -precision * x)
    assert precision >= 1 / (v + s**2)


def another(model: Any, **changes: Any) -> Any:
    """A denoiser of the same layout with other weights."""
    torch.manual_seed(7)
    return type(model).from_config(model.config, **changes).eval()


@pytest.fixture
def folder(sd: Any, tmp_path: Path) -> str:
    """A saved weak UNet."""
    another(sd.unet).save_pretrained(tmp_path / "weak")
    return str(tmp_path / "weak")


class Adapter(nn.Module):
    """A LoRA layer as peft builds it: a base layer and something beside it."""

    disable_adapters = False
    merged = False

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.low = nn.Linear(base_layer.in_features, 2, bias=False)
        self.high = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 3 * self.high(self.low(x))


def adapt(pipe: Any) -> None:
    """Puts an adapter around the values of every attention layer of the denoiser."""
    torch.manual_seed(3)
    modules: list[Any] = list(tiny.denoiser(pipe).modules())
    for module in modules:
        if isinstance(getattr(module, "to_v", None), nn.Linear):
            module.to_v = Adapter(module.to_v)


def by_hand(pipe: Any, worse: Any, scale: float) -> Any:
    """Latents of a loop written from the equation, without CFG."""
    model = tiny.denoiser(pipe)
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        good, bad = plain(*args, **kwargs)[0], worse(*args, **kwargs)[0]
        return (bad + scale * (good - bad),)

    model.forward = forward
    try:
        return tiny.sample(pipe, scale=1.0)
    finally:
        del model.forward


def test_weak_denoiser_pipeline_and_folder_give_the_same(sd: Any, folder: str) -> None:
    network = another(sd.unet)
    expected = by_hand(sd, network, 2.0)
    pipe = tiny.sd()
    pipe.unet = network
    for version in (network, pipe, folder, Path(folder)):
        with guide(sd, AutoGuidance(2.0, version)) as run:
            close(tiny.sample(sd, scale=1.0), expected)
        assert run.report.nfe == 8
        assert [record.extras["AutoGuidance: scale"] for record in run.report.steps] == [2.0] * 4


def test_folder_is_loaded_once(sd: Any, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = AutoGuidance(2.0, folder)
    with guide(sd, rule):
        first = tiny.sample(sd)
    monkeypatch.setattr(type(sd.unet), "from_pretrained", None)
    with guide(sd, rule):
        assert torch.equal(tiny.sample(sd), first)


def test_scale_one_never_calls_the_weak_model(sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    network = another(sd.unet)
    network.forward = never
    with guide(sd, AutoGuidance(1.0, network)) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 4


def test_equal_weak_model_changes_nothing(sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, AutoGuidance(2.9, tiny.sd().unet)):
        close(tiny.sample(sd), plain)


def test_scale_follows_a_schedule_and_its_interval(sd: Any) -> None:
    network = another(sd.unet)
    with guide(sd, AutoGuidance(table((1, 2, 1, 3)), network)) as run:
        tiny.sample(sd)
    assert [record.evaluations for record in run.report.steps] == [1, 2, 1, 2]
    with guide(sd, AutoGuidance(2.0, network).between(0, 0.5)) as run:
        tiny.sample(sd)
    assert [record.evaluations for record in run.report.steps] == [2, 2, 1, 1]


def test_adds_to_classifier_free_guidance(sd: Any) -> None:
    """cond + (w - 1) (cond - uncond) + (v - 1) (cond - weak), in three evaluations."""
    network = another(sd.unet)
    seen: dict[str, Tensor] = {}

    class Probe(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            seen["weak"] = network(*args, **kwargs)[0]
            return (seen["weak"],)

    probe = Probe()
    probe.config = network.config
    rule = CFG(4.0) + AutoGuidance(2.0, probe)
    with guide(sd, rule) as run:
        result = tiny.sample(sd, steps=1)
    assert run.report.nfe == 3
    with guide(sd, CFG(4.0)):
        guided = tiny.sample(sd, steps=1)
    with guide(sd, AutoGuidance(2.0, probe)):
        auto = tiny.sample(sd, steps=1)
    plain = tiny.sample(sd, scale=1.0, steps=1)
    # One DDIM step is affine in the prediction.
    close(result, guided + auto - plain)


def test_weak_model_sees_the_condition_of_its_own_image(pipe: Any) -> None:
    network = another(tiny.denoiser(pipe))
    with guide(pipe, CFG(3.0) + AutoGuidance(2.0, network)):
        together = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], together[0])
    with guide(pipe, CFG(3.0) + AutoGuidance(2.0, network), batching="sequential"):
        close(tiny.sample(pipe, batch=2), together)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weak_model_may_have_another_dtype(sd: Any, dtype: torch.dtype) -> None:
    network = another(sd.unet)
    with guide(sd, AutoGuidance(2.0, network)):
        expected = tiny.sample(sd)
    with guide(sd, AutoGuidance(2.0, another(sd.unet).to(dtype))):
        result = tiny.sample(sd)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0.1, rtol=0.1)
    assert not torch.equal(result, expected)


def test_folder_takes_the_dtype_and_the_device_of_the_strong_model(sd: Any, folder: str) -> None:
    half = sd.to(dtype=torch.float16)
    rule = AutoGuidance(2.0, folder)
    with guide(half, rule):
        assert tiny.sample(half).isfinite().all()
    network = rule._network
    assert network is not None
    assert network.model.dtype == torch.float16
    x, time, text = torch.zeros(1, 4, 8, 8), torch.tensor(3), torch.zeros(1, 16, tiny.WIDTH)
    inputs = (x.half().to("meta"), time, text.half().to("meta"))
    assert network(*inputs, return_dict=False)[0].device.type == "meta"


def test_casting_keeps_times_and_the_form_of_the_output(sd: Any) -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.ones(1, dtype=torch.float16))

        def forward(self, x: Tensor, time: Tensor, added: Any) -> Any:
            self.seen = x.dtype, time.dtype, added["ids"].dtype, added["mask"][0].dtype
            return {"sample": x}

    recorder = Recorder()
    added = {"ids": torch.zeros(2, 3), "mask": [torch.zeros(2, 3, dtype=torch.bool)]}
    output = Weaker(recorder, sd.unet)(torch.zeros(2, 3), time=torch.zeros(2), added=added)
    assert recorder.seen == (torch.float16, torch.float32, torch.float16, torch.bool)
    assert output["sample"].dtype == torch.float32


def test_skipping_layers_is_skip_layer_guidance(sd: Any) -> None:
    with guide(sd, SkipLayers(1.0, layers=("mid",))) as run:
        expected = tiny.sample(sd)
    with guide(sd, AutoGuidance(2.0, ("mid",))) as other:
        close(tiny.sample(sd), expected)
    assert run.report.nfe == other.report.nfe == 8
    with pytest.raises(ValueError, match="no attention layer 'middle'"):
        guide(sd, AutoGuidance(2.0, ("middle",)))


def test_without_adapters_is_the_base_model(pipe: Any) -> None:
    base = tiny.denoiser(pipe)
    adapt(pipe)
    bare = another(base)
    bare.load_state_dict(
        {
            name.replace(".base_layer", ""): value
            for name, value in base.state_dict().items()
            if ".low." not in name and ".high." not in name
        }
    )
    with guide(pipe, CFG(3.0) + AutoGuidance(2.0, bare)) as run:
        expected = tiny.sample(pipe, batch=2)
    for batching in ("joint", "sequential"):
        rule = CFG(3.0) + AutoGuidance(2.0, "without adapters")
        with guide(pipe, rule, batching=batching) as other:
            close(tiny.sample(pipe, batch=2), expected)
        assert run.report.nfe == other.report.nfe == 12
    with guide(pipe, AutoGuidance(1.0, "without adapters")) as run:
        adapted = tiny.sample(pipe, batch=2)
    assert not torch.allclose(adapted, expected, atol=1e-3)


def test_peft_adapters_are_found() -> None:
    peft = pytest.importorskip("peft")
    pipe = tiny.sd()
    plain = tiny.sample(pipe)
    config = peft.LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    with guide(pipe, AutoGuidance(0.0, "without adapters") + CFG(1.0)):
        base = tiny.sample(pipe, scale=1.0)
    pipe.unet.disable_adapters()
    with pytest.raises(ValueError, match="active adapters, found none"):
        guide(pipe, AutoGuidance(2.0, "without adapters"))
    close(tiny.sample(pipe), plain)
    close(tiny.sample(pipe, scale=1.0), base)
    pipe.unet.enable_adapters()
    pipe.unet.fuse_lora()
    with pytest.raises(ValueError, match="found them fused into"):
        guide(pipe, AutoGuidance(2.0, "without adapters"))


def test_adapters_must_be_there_and_not_fused(sd: Any) -> None:
    with pytest.raises(ValueError, match="with active adapters, found none; load one"):
        guide(sd, AutoGuidance(2.0, "without adapters"))
    adapt(sd)
    sd.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_v.merged = True
    with pytest.raises(ValueError, match=r"found them fused into mid_block\..*to_v; call"):
        guide(sd, AutoGuidance(2.0, "without adapters"))


def test_weak_model_that_does_not_fit_is_refused_before_the_run(sd: Any, tmp_path: Path) -> None:
    inpaint = another(sd.unet, in_channels=9)
    with pytest.raises(ValueError, match=r"weak must have in_channels=4 .* found 9"):
        guide(sd, AutoGuidance(2.0, inpaint))
    with pytest.raises(ValueError, match="weak must be another denoiser than the strong one"):
        guide(sd, AutoGuidance(2.0, sd))
    with pytest.raises(ValueError, match=r"weak='nowhere' must be the folder.*no config\.json"):
        guide(sd, AutoGuidance(2.0, "nowhere"))
    sd.save_config(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="name its unet or transformer folder"):
        guide(sd, AutoGuidance(2.0, str(tmp_path)))
    (tmp_path / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(ValueError, match="must hold a UNet2DConditionModel, found SD3Transf"):
        guide(sd, AutoGuidance(2.0, str(tmp_path)))


def test_weak_pipeline_of_another_prediction_type_is_refused(sd: Any) -> None:
    other = tiny.sd()
    other.scheduler = tiny.scheduler("DDIMScheduler", prediction_type="v_prediction")
    with (
        guide(sd, AutoGuidance(2.0, other)),
        pytest.raises(ValueError, match=r"must predict 'epsilon' .* 'v_prediction'"),
    ):
        tiny.sample(sd)


@pytest.mark.parametrize(
    "rule",
    [
        AutoGuidance(2.0, "some/folder"),
        AutoGuidance(linear(1, 3), ("mid", "up_blocks.0")).between(0.1, 0.9),
        AutoGuidance(2.0, "without adapters"),
        CFG(4.0) + AutoGuidance(2.0, ("mid",)),
    ],
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    names = {cls.__name__: cls for cls in (AutoGuidance, CFG, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    assert parse_rule("AutoGuidance(2, weak='some/folder')") == AutoGuidance(2.0, "some/folder")


def test_denoiser_in_memory_has_a_short_name_and_no_json(sd: Any) -> None:
    rule = AutoGuidance(2.0, sd).between(0, 0.5)
    assert repr(rule) == "AutoGuidance(scale=2.0, weak=<StableDiffusionPipeline>).between(0.0, 0.5)"
    assert repr(AutoGuidance(2, sd.unet)) == "AutoGuidance(scale=2.0, weak=<UNet2DConditionModel>)"
    with pytest.raises(ValueError, match="in memory has no JSON form; save the denoiser"):
        rule.to_config()


def test_branches_are_one_object_from_call_to_call(sd: Any) -> None:
    rule = AutoGuidance(2.0, another(sd.unet))
    rule.check(sd.unet, FAMILIES[0])
    good, worse = pair()
    asked: list[Any] = []

    def evaluate(branch: Any) -> Tensor:
        asked.append(branch)
        return good if branch == COND else worse

    step = Step(
        index=0,
        count=4,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=good,
        prediction_type="epsilon",
        evaluator=evaluate,
    )
    assert list(rule.needs(step)) == [weak(rule._network)]
    torch.testing.assert_close(rule.predict(step), 2 * good - worse)
    assert asked == [COND, weak(rule._network)]
    skipping = AutoGuidance(2.0, ("mid",))
    assert list(skipping.needs(step)) == [perturbed(skipping.perturbation)]


@pytest.mark.parametrize("version", [None, 3, "", {"a": 1}, [None]])
def test_impossible_settings_raise(version: Any) -> None:
    with pytest.raises(TypeError, match="AutoGuidance: weak must be a"):
        AutoGuidance(2.0, version)
    with pytest.raises(ValueError, match="AutoGuidance: weak must select something"):
        AutoGuidance(2.0, ())
    with pytest.raises(ValueError, match="AutoGuidance: scale must be a finite number from 0 up"):
        AutoGuidance(-1, ("mid",))
