"""Softened heads: hand examples, a slow reference, identities, diffusers' own PAG."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import (
    PAGIdentitySelfAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
)
from torch import Tensor

from guidance import CFG, COND, Rule, Step, cosine, guide, parse_rule
from guidance.core.attention import Attention
from guidance.core.heads import resolve_layers
from guidance.core.layers import layers_of
from guidance.core.prediction import Branch
from guidance.seg import SEG
from guidance.soft_pag import JOINT_MODES, PAG, Softened, SoftPAG, perturb, soften
from tests import tiny, tiny_families
from tests.guidance import bare
from tests.tiny import close

STOCHASTIC = ("row", "row_all", "masked", "block_mass")

every_mode = pytest.mark.parametrize("joint_mode", JOINT_MODES)
every_model = pytest.mark.parametrize("name", list(bare.MODELS))


def heads(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of seven tokens of two images in float64."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, count, 7, 4, generator=generator, dtype=torch.float64)
    return query, key, value


IMAGE = torch.tensor([False, True, True, False, True, True, False])
U = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def reference(
    query: Tensor, key: Tensor, value: Tensor, strength: Tensor, image: Tensor, joint_mode: str
) -> Tensor:
    """The maps themselves, changed entry by entry."""
    output = torch.empty_like(query)
    own = image.nonzero().squeeze(1).tolist()
    text = (~image).nonzero().squeeze(1).tolist()
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            logits = query[b, h] @ key[b, h].T / query.shape[3] ** 0.5
            a, u = logits.softmax(1), strength[h]
            changed = a.clone()
            for i in range(len(a)) if joint_mode == "row_all" else own:
                target = torch.zeros_like(a[i])
                match joint_mode:
                    case "row" | "row_all":
                        target[i] = 1
                    case "masked":
                        target[[i, *text]] = logits[i, [i, *text]].softmax(0)
                    case "block":
                        target[text], target[i] = a[i, text], 1
                    case "block_mass":
                        target[text], target[i] = a[i, text], a[i, own].sum()
                changed[i] = (1 - u) * a[i] + u * target
            output[b, h] = changed @ value[b, h]
    return output


@pytest.mark.parametrize(
    ("joint_mode", "expected"),
    [
        ("row", (0, 3, 3)),
        ("row_all", (0, 3, 6)),
        ("masked", (3, 4.5, 3)),
        ("block", (2, 5, 3)),
        ("block_mass", (2, 4, 3)),
    ],
)
def test_two_image_tokens_and_a_text_token(joint_mode: str, expected: tuple[float, ...]) -> None:
    flat, value = torch.zeros(1, 1, 3, 1), torch.tensor([0.0, 3.0, 6.0]).view(1, 1, 3, 1)
    image = torch.tensor([True, True, False])
    result = perturb(flat, flat, value, torch.ones(1), image, joint_mode)
    torch.testing.assert_close(result.flatten(), torch.tensor(expected, dtype=torch.float32))


def test_two_tokens_at_a_quarter() -> None:
    flat, value = torch.zeros(1, 1, 2, 1), torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    result = perturb(flat, flat, value, torch.tensor([0.25]))
    torch.testing.assert_close(result.flatten(), torch.tensor([0.375, 0.625]))


@every_mode
def test_matches_the_maps_themselves(joint_mode: str) -> None:
    query, key, value = heads()
    result = perturb(query, key, value, U, IMAGE, joint_mode)
    expected = reference(query, key, value, U, IMAGE, joint_mode)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@every_mode
def test_large_logits_do_not_overflow(joint_mode: str) -> None:
    query, key, value = heads()
    result = perturb(200 * query, 200 * key, value, U, IMAGE, joint_mode)
    expected = reference(200 * query, 200 * key, value, U, IMAGE, joint_mode)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


@every_mode
def test_few_heads_at_a_time_are_all_heads_at_once(
    joint_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidance import soft_pag

    at_once = perturb(*heads(), U, IMAGE, joint_mode)
    monkeypatch.setattr(soft_pag, "_LOGITS", 1)
    one_by_one = perturb(*heads(), U, IMAGE, joint_mode)
    torch.testing.assert_close(one_by_one, at_once, rtol=0, atol=1e-14)


@every_mode
def test_without_text_all_modes_are_one(joint_mode: str) -> None:
    query, key, value = heads()
    expected = perturb(query, key, value, U)
    for image in (None, torch.ones(7, dtype=torch.bool)):
        assert torch.equal(perturb(query, key, value, U, image, joint_mode), expected)


@every_mode
def test_without_an_image_only_all_rows_move(joint_mode: str) -> None:
    query, key, value = heads()
    plain = perturb(query, key, value, 0 * U)
    result = perturb(query, key, value, U, torch.zeros(7, dtype=torch.bool), joint_mode)
    assert torch.equal(result, plain) == (joint_mode != "row_all")


@every_mode
def test_ends_and_the_line_between(joint_mode: str) -> None:
    query, key, value = heads()

    def at(u: float) -> Tensor:
        return perturb(query, key, value, torch.full((3,), u).double(), IMAGE, joint_mode)

    native = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(at(0.0), native)
    torch.testing.assert_close(at(0.3), 0.7 * at(0.0) + 0.3 * at(1.0), rtol=0, atol=1e-7)
    if joint_mode in ("row", "row_all"):
        assert torch.equal(at(1.0)[:, :, IMAGE], value[:, :, IMAGE])


@every_mode
def test_heads_and_text_rows_are_left_alone(joint_mode: str) -> None:
    query, key, value = heads()
    plain = perturb(query, key, value, 0 * U, IMAGE, joint_mode)
    moved = perturb(query, key, value, U, IMAGE, joint_mode)
    assert torch.equal(moved[:, 0], plain[:, 0])
    text = (moved == plain)[:, 1:, ~IMAGE]
    assert text.all() if joint_mode != "row_all" else not text.any()


@every_mode
def test_constant_values_stay_where_rows_sum_to_one(joint_mode: str) -> None:
    query, key, value = heads()
    value = value[:, :, :1].expand_as(value)
    moved = perturb(query, key, value, U, IMAGE, joint_mode)
    if joint_mode in STOCHASTIC:
        torch.testing.assert_close(moved, value, rtol=0, atol=1e-12)
    else:
        maps = (query @ key.mT / 2).softmax(3)
        mass = maps[..., ~IMAGE].sum(3, keepdim=True)[:, :, IMAGE]
        expected = value[:, :, IMAGE] * (1 + U.view(-1, 1, 1) * mass)
        torch.testing.assert_close(moved[:, :, IMAGE], expected, rtol=0, atol=1e-12)


@every_mode
def test_heads_may_share_keys_and_values(joint_mode: str) -> None:
    query, key, value = heads(4)
    strength = torch.linspace(0, 1, 4).double()
    shared = perturb(query, key[:, :2], value[:, :2], strength, IMAGE, joint_mode)
    key, value = key[:, [0, 0, 1, 1]], value[:, [0, 0, 1, 1]]
    assert torch.equal(shared, perturb(query, key, value, strength, IMAGE, joint_mode))


@every_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(joint_mode: str, dtype: torch.dtype) -> None:
    query, key, value = (part.to(dtype) for part in heads())
    large = perturb(30 * query, 30 * key, 30 * value, U, IMAGE, joint_mode)
    assert large.dtype == dtype
    assert large.isfinite().all()
    near = perturb(query, key, value, U, IMAGE, joint_mode).double()
    exact = perturb(*heads(), U, IMAGE, joint_mode)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.05)


def test_impossible_arguments_raise() -> None:
    parts = heads()
    with pytest.raises(ValueError, match=r"joint_mode must be one of row, .*found 'rows'"):
        perturb(*parts, U, IMAGE, "rows")
    for strength in (U[:2], U + 0.1, U - 0.1):
        with pytest.raises(ValueError, match="strength must hold 3 numbers from 0 to 1"):
            perturb(*parts, strength)


@pytest.mark.parametrize(
    ("build", "layer"),
    [(bare.unet, "mid"), (bare.ddpm, "mid"), (bare.pixart, "transformer_blocks.1")],
)
def test_full_strength_is_diffusers_identity_attention(build: Any, layer: str) -> None:
    pair = build().twins()
    ours = pair.run(Softened(layer))
    for chosen in resolve_layers(pair.model, layer):
        chosen.module.set_processor(PAGIdentitySelfAttnProcessor2_0())  # type: ignore[operator]
    torch.testing.assert_close(ours, pair.run(), rtol=0, atol=1e-12)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_masked_at_full_strength_is_diffusers_joint_pag() -> None:
    pair = bare.sd3().twins()
    ours = pair.run(Softened("transformer_blocks.1"))
    pair.model.transformer_blocks[1].attn.set_processor(PAGJointAttnProcessor2_0())
    torch.testing.assert_close(ours, pair.run(), rtol=0, atol=1e-12)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def layer_of(model: bare.Bare) -> str:
    """The last layer that sees an image."""
    return [each.path for each in layers_of(model.model) if each.kind in ("image", "joint")][-1]


def modes_of(name: str) -> tuple[str, ...]:
    return JOINT_MODES if name in ("added", "sd3", "sd35", "flux") else ("row",)


@every_model
def test_nothing_softened_is_the_plain_model(name: str) -> None:
    model = bare.MODELS[name]()
    plain = model.run()
    for joint_mode in modes_of(name):
        assert torch.equal(model.run(Softened(layer_of(model), 0.0, joint_mode)), plain)


@every_model
def test_full_strength_gives_the_values_of_the_layer(name: str) -> None:
    model = bare.MODELS[name]()
    path = layer_of(model)
    layer = model.model.get_submodule(path)
    if getattr(layer, "to_out", None) is None:
        value = model.inside(f"{path}.to_v")[1, model.text :]
        attended = model.inside(path, Softened(path, joint_mode="row"))[1, model.text :]
    else:
        value = model.inside(f"{path}.to_v")[1]
        attended = model.inside(f"{path}.to_out.0", Softened(path, joint_mode="row"))[1]
        value = layer.to_out[0](value)
    torch.testing.assert_close(attended, value, rtol=0, atol=1e-12)


def output(model: bare.Bare, path: str, *settings: Any) -> Tensor:
    """Image tokens that a softened layer gives for the perturbed row."""
    result = model.inside(path, Softened(*settings))
    return (result[0] if isinstance(result, tuple) else result)[1]


@every_model
def test_a_layer_is_affine_in_the_strength_and_adds_up_over_heads(name: str) -> None:
    model = bare.MODELS[name]()
    path = layer_of(model)
    count = model.model.get_submodule(path).heads
    for joint_mode in modes_of(name):
        plain, full = (output(model, path, path, u, joint_mode) for u in (0.0, 1.0))
        middle = output(model, path, path, 0.3, joint_mode)
        torch.testing.assert_close(middle, 0.7 * plain + 0.3 * full, rtol=0, atol=1e-10)
        each = [output(model, path, (path, head), 1.0, joint_mode) for head in range(count)]
        changes = sum((one - plain for one in each), torch.zeros_like(plain))
        torch.testing.assert_close(changes, full - plain, rtol=0, atol=1e-10)
        assert all(not torch.allclose(one, plain, atol=1e-4) for one in each)


def test_strengths_follow_the_order_of_selection() -> None:
    model = bare.unet()
    path = layer_of(model)
    backwards = Softened(((path, 2), (path, 0)), (0.25, 0.75))
    forwards = Softened(((path, 0), (path, 2)), (0.75, 0.25))
    assert torch.equal(model.run(backwards), model.run(forwards))
    assert not torch.equal(model.run(backwards), model.run(Softened(forwards.heads, (0.25, 0.75))))
    with pytest.raises(ValueError, match="one for each of the 4 heads that 'mid' selects, found 3"):
        model.run(Softened("mid", (0.1, 0.2, 0.3)))


def test_permuted_text_moves_the_same_image_tokens() -> None:
    for build in (bare.sd3, bare.flux):
        model = build()
        text = model.inputs["encoder_hidden_states"]
        shuffled = replace(
            model, inputs={**model.inputs, "encoder_hidden_states": text[:, [3, 0, 4, 2, 1]]}
        )
        for joint_mode in JOINT_MODES:
            by = Softened(layer_of(model), 0.6, joint_mode)
            torch.testing.assert_close(shuffled.run(by), model.run(by), rtol=0, atol=1e-10)


def test_sd35_image_attention_is_softened_by_rows() -> None:
    model = bare.sd35()
    path = "transformer_blocks.0.attn2"
    rows, masked = (model.run(Softened(path, 0.5, mode)) for mode in ("row", "masked"))
    assert torch.equal(rows, masked)
    assert not torch.allclose(rows, model.run(), atol=1e-4)


@every_mode
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("hidden", [[0], [0, 3, 6]])
def test_hidden_text_is_as_good_as_none(joint_mode: str, additive: bool, hidden: list[int]) -> None:
    query, key, value = heads()
    seen = torch.ones(7, dtype=torch.bool)
    seen[hidden] = False
    mask = seen.expand(2, 1, 1, 7)
    if additive:
        mask = torch.zeros(2, 3, 7, 7).double().masked_fill(~mask, float("-inf"))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    image = IMAGE.nonzero().squeeze(1)
    attention = Attention(query, key, value, output, image, image, mask)
    query, key, value = (part[:, :, seen] for part in heads())
    without = perturb(query, key, value, U, IMAGE[seen], joint_mode)
    softened = soften(attention, U, joint_mode)[:, :, seen]
    torch.testing.assert_close(softened, without, rtol=0, atol=1e-12)


def tiny_pag(name: str, pipe: Any, **settings: Any) -> Any:
    pag = getattr(diffusers, name).from_pipe(pipe, **settings)
    pag.set_progress_bar_config(disable=True)
    return tiny.sample(pag, scale=5.0, batch=2, pag_scale=3.0)


@pytest.mark.parametrize(
    ("build", "name", "theirs", "ours"),
    [
        (tiny.sd, "StableDiffusionPAGPipeline", "mid", "mid"),
        (tiny.sd, "StableDiffusionPAGPipeline", "up_blocks.0.attentions.1", "up_blocks.0.*.1"),
        (tiny.sdxl, "StableDiffusionXLPAGPipeline", "mid", "auto"),
        (tiny.sd3, "StableDiffusion3PAGPipeline", "blocks.1", "auto"),
        (tiny.sd3, "StableDiffusion3PAGPipeline", "blocks.0", "transformer_blocks.0"),
    ],
)
@pytest.mark.parametrize("batching", ["joint", "sequential"])
def test_is_diffusers_pag_pipeline(
    build: Any, name: str, theirs: str, ours: str, batching: str
) -> None:
    pipe = build()
    with guide(pipe, CFG(5.0) + PAG(3.0, layers=ours), batching=batching) as run:
        guided = tiny.sample(pipe, scale=5.0, batch=2)
    assert [record.evaluations for record in run.report.steps] == [3] * 4
    close(guided, tiny_pag(name, pipe, pag_applied_layers=theirs))


@pytest.mark.parametrize("build", [tiny.sd, tiny.sd3])
def test_several_perturbations_meet_in_one_layer(build: Any) -> None:
    pipe = build()
    rule = CFG(2.0) + PAG(1.0) + SEG(2.0) + SoftPAG(1.0, strength=0.5, joint_mode="row")
    with guide(pipe, rule) as run:
        joint = tiny.sample(pipe, batch=2)
    assert [record.evaluations for record in run.report.steps] == [5] * 4
    with guide(pipe, rule, batching="sequential"):
        close(tiny.sample(pipe, batch=2), joint)
    assert bare.hooks_of(tiny.denoiser(pipe)) == 0


def test_alone_it_needs_no_unconditional_rows() -> None:
    pipe = tiny.sd()
    with guide(pipe, PAG(3.0)) as run:
        off, on = tiny.sample(pipe, scale=1.0), tiny.sample(pipe, scale=5.0)
    assert [record.evaluations for record in run.report.steps] == [2] * 8
    close(on, off)
    pag = tiny.relative("StableDiffusionPAGPipeline", pipe, pag_applied_layers="mid")
    close(off, tiny.sample(pag, scale=1.0, pag_scale=3.0))


def test_works_on_an_unconditional_model() -> None:
    family = tiny_families.FAMILIES["ddpm"]
    pipe = family()
    plain = family.call(pipe)
    with guide(pipe, SoftPAG(3.0, strength=0.5)) as run:
        assert not torch.allclose(family.call(pipe), plain, atol=1e-3)
    assert run.report.nfe == 4
    assert torch.equal(family.call(pipe), plain)


@pytest.mark.parametrize(
    "neutral", [SoftPAG(0.0), SoftPAG(3.0, strength=0), SoftPAG(3.0, strength=(0.0,) * 8), PAG(0.0)]
)
def test_neutral_settings_cost_nothing(neutral: Rule, sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, neutral) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 4


def test_scale_follows_a_schedule_and_is_reported(sd: Any) -> None:
    with guide(sd, CFG(2.0) + SoftPAG(cosine(4, 0)).between(0.0, 0.5)) as run:
        tiny.sample(sd)
    steps = run.report.steps
    assert [record.evaluations for record in steps] == [3, 3, 2, 2]
    assert [record.extras.get("SoftPAG: scale", 0) for record in steps[::2]] == [4, 0]
    assert all(record.scale == 2 for record in steps)


def test_prediction_is_pushed_away_from_the_perturbed_one() -> None:
    cond, worse = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    rule = SoftPAG(2.5, heads="mid:1", strength=0.5)
    asked: list[Branch] = []

    def evaluate(branch: Branch) -> Tensor:
        asked.append(branch)
        return cond if branch == COND else worse

    step = Step(
        index=0,
        count=4,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=cond,
        prediction_type="epsilon",
        evaluator=evaluate,
    )
    torch.testing.assert_close(rule.predict(step), cond + 2.5 * (cond - worse))
    assert set(asked) == {COND, *rule.needs(step)}


@pytest.mark.parametrize("selector", ["mid.attn2", "down_blocks.0", "mid:8", ("mid", "mid:1")])
def test_selectors_are_checked_before_the_first_call(selector: Any, sd: Any) -> None:
    with pytest.raises(ValueError, match=r"attention layer|heads 0 to 7|second time"):
        guide(sd, CFG(3.0) + SoftPAG(2.0, heads=selector))


@pytest.mark.parametrize(
    "rule",
    [
        SoftPAG(2.5),
        SoftPAG(cosine(0, 3), heads="mid_block*", strength=0.5, joint_mode="row"),
        SoftPAG(2.5, heads=["mid", 3]),  # type: ignore[arg-type]
        SoftPAG(2.5, heads=[["mid", 3], "up_blocks.0:1"], strength=[0.5, 1]),  # type: ignore
        PAG(3.0, layers=("mid", "up_blocks.0")),
    ],
)
def test_settings_survive_text_and_json(rule: Rule) -> None:
    for again in (
        Rule.from_config(json.loads(json.dumps(rule.to_config()))),
        parse_rule(repr(rule)),
    ):
        assert again == rule
        assert hash(again.perturbation) == hash(rule.perturbation)  # type: ignore[attr-defined]


def test_written_as_text() -> None:
    rule = parse_rule('CFG(5) + SoftPAG(2.5, heads="mid_block*", strength=0.5)')
    assert rule == CFG(5.0) + SoftPAG(2.5, heads="mid_block*", strength=0.5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scale": -1}, ValueError, "SoftPAG: scale must be a finite number from 0 up"),
        ({"scale": None}, TypeError, "SoftPAG: scale must be a finite number"),
        ({"strength": 1.1}, ValueError, "SoftPAG: strength must be a finite number from 0 to 1"),
        ({"strength": (0.5, -1)}, ValueError, "SoftPAG: strength must be a finite number"),
        ({"heads": 3}, TypeError, "SoftPAG: heads must be a layer"),
        ({"joint_mode": "rows"}, ValueError, "joint_mode must be one of row, row_all, masked"),
    ],
)
def test_impossible_settings_raise(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SoftPAG(**settings)
    with pytest.raises(ValueError, match="PAG: layers takes whole layers"):
        PAG(3.0, layers="mid:1")
