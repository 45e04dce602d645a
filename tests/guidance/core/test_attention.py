"""The two ways into an attention layer: which rows and tokens they touch, and what they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from torch import Tensor, nn

from guidance import guide
from guidance.core import attention
from guidance.core.attention import Attention, intercepted, mixed_values, shows_values
from guidance.core.family import family_of
from guidance.core.heads import resolve_layers
from guidance.core.layers import layers_of
from guidance.core.perturb import Call, Perturbation, PerturbedDirection
from guidance.core.target import Target
from guidance.soft_pag import PAG, Softened, SoftPAG
from tests import tiny_families
from tests.guidance import bare

every_model = pytest.mark.parametrize("name", list(bare.MODELS))


@dataclass(frozen=True)
class Intercepted(Perturbation):
    """Puts the values in place of the output of one layer's image tokens, in its kernel's call."""

    path: str

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        (layer,) = resolve_layers(model, self.path)

        def values(attention: Attention) -> Tensor:
            output = attention.output.clone()
            output[:, :, attention.image] = attention.value[:, :, attention.own]
            return output

        with intercepted(layer, call, values):
            yield


@dataclass(frozen=True)
class Mixed(Perturbation):
    """The same by the layer's projections."""

    path: str

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        (layer,) = resolve_layers(model, self.path)
        with mixed_values(layer, call, lambda heads, value: value):
            yield


def paths(model: Any, kinds: tuple[str, ...] = ("image", "joint")) -> list[str]:
    return [layer.path for layer in layers_of(model) if layer.kind in kinds]


@every_model
def test_only_the_rows_of_the_call_change(name: str) -> None:
    model = bare.MODELS[name]()
    plain = model.run()
    for path in paths(model.model):
        for rows in (slice(0, 1), slice(1, 3)):
            changed = model.run(Intercepted(path), rows)
            others = [row for row in range(bare.ROWS) if row not in range(bare.ROWS)[rows]]
            assert torch.equal(changed[others], plain[others])
            assert all((changed[row] - plain[row]).abs().max() > 1e-6 for row in range(3)[rows])


@every_model
def test_both_ways_into_a_layer_are_one(name: str) -> None:
    model = bare.MODELS[name]()
    for layer in layers_of(model.model):
        if layer.kind in ("image", "joint"):
            assert shows_values(layer)
            torch.testing.assert_close(
                model.run(Mixed(layer.path)), model.run(Intercepted(layer.path)), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize(
    "family",
    [name for name in tiny_families.FAMILIES if name not in ("sana", "mochi", "stable_cascade")],
)
def test_both_ways_agree_in_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidance import soft_pag

    tiny = tiny_families.FAMILIES[family]
    pipe = tiny()
    model = next(iter(Target(pipe).denoisers))
    chosen = tuple(layer.path for layer in layers_of(model) if layer.kind in ("image", "joint"))
    rule = SoftPAG(2.0, heads=chosen, strength=0.7, joint_mode="row")
    plain = tiny.call(pipe, scale=tiny.off)
    with guide(pipe, rule):
        direct = tiny.call(pipe, scale=tiny.off)
    monkeypatch.setattr(soft_pag, "shows_values", lambda layer: False)
    with guide(pipe, rule):
        inside = tiny.call(pipe, scale=tiny.off)
    assert not torch.allclose(direct, plain, atol=1e-3)
    torch.testing.assert_close(direct, inside, rtol=0, atol=1e-4 * direct.abs().max().item())


@pytest.mark.parametrize(
    ("build", "path", "text"),
    [
        (bare.sd3, "transformer_blocks.0.attn", 1),
        (bare.flux, "transformer_blocks.0.attn", 1),
        (bare.flux, "single_transformer_blocks.0.attn", slice(0, 5)),
    ],
)
@pytest.mark.parametrize("way", [Intercepted, Mixed])
def test_text_tokens_stay(build: Any, path: str, text: Any, way: Any) -> None:
    model = build()
    plain, changed = model.inside(path), model.inside(path, way(path))
    if isinstance(text, int):
        assert torch.equal(changed[text], plain[text])
        image = (changed[0] - plain[0])[1]
    else:
        assert torch.equal(changed[:, text], plain[:, text])
        image = (changed - plain)[1, 5:]
    assert (image.abs().amax(-1) > 1e-6).all()


@dataclass(frozen=True)
class Spy(Perturbation):
    """Notes where one layer's image tokens are, and how many tokens there are."""

    path: str
    seen: list[tuple[list[int], int]] = field(default_factory=list, compare=False)

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        def look(attention: Attention) -> Tensor:
            self.seen.append((attention.image.tolist(), attention.query.shape[2]))
            return attention.output

        (layer,) = resolve_layers(model, self.path)
        with intercepted(layer, call, look):
            yield


@pytest.mark.parametrize(
    "family",
    [
        "flux",
        "flux_kontext",
        "flux2",
        "chroma",
        "qwen",
        "aura",
        "cogview3",
        "cogview4",
        "cogvideox",
        "hunyuan_video",
        "hunyuan_image",
    ],
)
def test_image_tokens_are_found_in_every_joint_layer(family: str) -> None:
    tiny = tiny_families.FAMILIES[family]
    pipe = tiny()
    model, counts = pipe.transformer, []
    text_first = family_of(model).tokens[0] == "text"  # type: ignore[union-attr]
    spies = [Spy(layer.path) for layer in layers_of(model) if layer.kind == "joint"]
    model.norm_out.register_forward_hook(lambda m, args, output: counts.append(args[0].shape[1]))
    for spy in spies:
        with guide(pipe, Watching(by=spy)):
            tiny.call(pipe, scale=tiny.off)
        image, length = spy.seen[0]
        start = length - counts[0] if text_first else 0
        assert counts[0] < length
        assert image == list(range(start, start + counts[0]))


@dataclass(frozen=True, repr=False)
class Watching(PerturbedDirection):
    """A rule with any perturbation."""

    by: Any = None
    scale: float = 1.0

    @property
    def perturbation(self) -> Perturbation:
        return self.by


def test_text_tokens_stay_in_rows_of_different_length() -> None:
    family = tiny_families.FAMILIES["lumina2"]
    pipe = family()
    path = "layers.1.attn"
    sequence = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            valid = kwargs["attention_mask"]
            if valid is not None:
                sequence[name] = (output, valid)

        return hook

    model = pipe.transformer
    lengths = []
    model.x_embedder.register_forward_hook(lambda m, a, output: lengths.append(output.shape[1]))
    embeds = torch.randn(2, 7, model.config.cap_feat_dim)
    inputs = {
        "hidden_states": torch.randn(2, model.config.in_channels, 8, 4),
        "timestep": torch.full((2,), 0.5),
        "encoder_hidden_states": embeds,
        "encoder_attention_mask": torch.tensor([[1] * 7, [1] * 3 + [0] * 4]).bool(),
    }
    module = model.get_submodule(path)
    with torch.no_grad():
        for name, way in (("plain", None), ("changed", Intercepted(path))):
            with module.register_forward_hook(look(name), with_kwargs=True):
                if way is None:
                    model(**inputs)
                else:
                    with way.applied(model, Call(slice(0, 2), 2, 7, (8, 4))):
                        model(**inputs)
    (plain, valid), (changed, _) = sequence["plain"], sequence["changed"]
    moved = (changed - plain).abs().amax(-1) > 1e-6
    count = lengths[0]
    expected = torch.zeros_like(moved)
    for row, text in enumerate((7, 3)):
        expected[row, text : text + count] = True
    assert torch.equal(moved, expected)
    assert valid.sum(1).tolist() == [7 + count, 3 + count]


@every_model
def test_nothing_is_left_behind(name: str) -> None:
    model = bare.MODELS[name]()
    before, plain = bare.hooks_of(model.model), model.run()
    for mode in ("row", "masked"):
        chosen = tuple(paths(model.model))
        model.run(Softened(chosen, joint_mode=mode))
        assert bare.hooks_of(model.model) == before
    assert torch.equal(model.run(), plain)


class Stop(BaseException):
    """Ends a run from within, as Ctrl-C does."""


@every_model
@pytest.mark.parametrize("error", [RuntimeError, Stop])
def test_nothing_is_left_behind_by_an_error(name: str, error: type[BaseException]) -> None:
    model = bare.MODELS[name]()
    before = bare.hooks_of(model.model)

    def fail(*_: Any) -> None:
        raise error("inside")

    for path in paths(model.model):
        layer = model.model.get_submodule(path)
        for way in (Intercepted(path), Mixed(path)):
            with (
                bare.hooked(layer.norm_q or layer.to_q, fail),
                pytest.raises(error, match="inside"),
            ):
                model.run(way)
            assert bare.hooks_of(model.model) == before


@pytest.mark.parametrize("processor", [AttnProcessor(), SlicedAttnProcessor(2)])
def test_values_are_met_under_any_kernel(processor: Any) -> None:
    model = bare.unet()
    native = model.run(Mixed("mid"))
    model.model.set_attn_processor(processor)
    torch.testing.assert_close(model.run(Mixed("mid")), native, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"attn1 never called scaled_dot_product_attention"):
        model.run(Intercepted("mid"))
    assert bare.hooks_of(model.model) == 0


@pytest.mark.parametrize("build", [bare.unet, bare.sd3, bare.flux])
def test_fused_projections_are_met_in_the_kernel(build: Any) -> None:
    model = build()
    chosen = tuple(paths(model.model))
    apart = model.run(Softened(chosen, 0.5))
    model.model.fuse_qkv_projections()
    layers = [layer for layer in layers_of(model.model) if layer.kind in ("image", "joint")]
    assert not any(shows_values(layer) for layer in layers)
    torch.testing.assert_close(model.run(Softened(chosen, 0.5)), apart, rtol=0, atol=1e-9)


def test_shared_keys_and_values_are_spread_over_their_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 3, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, 6, 3, generator=generator, dtype=torch.float64)
    spread = [part.repeat_interleave(2, 1) for part in (key, value)]
    torch.testing.assert_close(attention._spread(value, 4, 1), spread[1], rtol=0, atol=0)
    native = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(
        nn.functional.scaled_dot_product_attention(query, *spread), native, rtol=0, atol=1e-12
    )


def test_attention_that_runs_row_by_row() -> None:
    family = tiny_families.FAMILIES["mochi"]
    pipe = family()
    with guide(pipe, PAG(2.0)), pytest.raises(ValueError, match="use batching='sequential' and"):
        family.call(pipe, scale=family.off)
    rows = SoftPAG(2.0, joint_mode="row")
    results = []
    for rule, batching in ((rows, "joint"), (rows, "sequential"), (PAG(2.0), "sequential")):
        with guide(pipe, rule, batching=batching):
            results.append(family.call(pipe, scale=family.off))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)
    assert not torch.allclose(results[1], results[2], atol=1e-3)
