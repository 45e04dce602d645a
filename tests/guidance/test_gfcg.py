"""Gradient-free classifier guidance: identities on known mixtures, the reference class, cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import (
    CFG,
    COND,
    UNCOND,
    AdaptiveGuidance,
    AutoGuidance,
    GradientFreeClassifierGuidance,
    Rule,
    SoftPAG,
    Step,
    guide,
    linear,
)
from guidance.core.config import Part
from guidance.core.prediction import PREDICTION_TYPES
from guidance.core.spec import parse_rule
from guidance.evaluators import DecodedClassifier
from guidance.gfcg import DOUBTS, reference_class
from tests import tiny
from tests.guidance.mixture import LEVELS, NAMES, Mixture
from tests.guidance.rules import Projection
from tests.tiny import close
from tests.tiny_families import FAMILIES

GFCG = GradientFreeClassifierGuidance
PROMPTED = [name for name, family in FAMILIES.items() if family.prompt]


@dataclass(frozen=True)
class Posterior:
    """The exact classifier of the noisy sample of a step."""

    mixture: Mixture
    classes: tuple[str, ...]

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        return self.mixture.logits(step.x, step.alpha, step.sigma)


@dataclass(frozen=True)
class Fixed(Part):
    """The same logits whatever it sees, one row for each image or one for all."""

    rows: tuple[tuple[float, ...], ...]
    classes: tuple[str, ...] = ("fox", "owl", "hat", "map")

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        return torch.tensor(self.rows, dtype=torch.float64).expand(len(x0), -1)


def posterior(classes: int) -> Posterior:
    return Posterior(Mixture.of(classes), NAMES[:classes])


def noisy(images: int = 6) -> Tensor:
    return torch.randn(images, 4, dtype=torch.float64)


def test_reference_is_the_likeliest_other_class_and_of_equals_the_first() -> None:
    logits = torch.tensor([[3.0, 1, 2], [3, 1, 2], [1, 1, 1], [1, 1, 1], [0, 5, 5], [5, 0, 5]])
    target = torch.tensor([0, 1, 0, 2, 0, 0])
    assert reference_class(logits, target).tolist() == [2, 0, 1, 0, 1, 2]


def test_reference_is_never_the_target() -> None:
    """Also where every other class is impossible, and where nothing is a number."""
    target = torch.arange(5)
    for logits in (
        torch.randn(5, 5),
        torch.eye(5).log(),
        torch.full((5, 5), torch.nan),
        torch.zeros(5, 5),
    ):
        assert (reference_class(logits, target) != target).all()


def test_reference_agrees_with_a_loop() -> None:
    logits, target = torch.randint(0, 4, (200, 6)).double(), torch.randint(0, 6, (200,))
    found = reference_class(logits, target).tolist()
    for row, c, r in zip(logits.tolist(), target.tolist(), found, strict=True):
        others = [k for k in range(6) if k != c]
        assert r == max(others, key=lambda k: (row[k], -k))


def test_reference_follows_the_order_of_the_classes_and_no_constant() -> None:
    logits, target = torch.randn(50, 7), torch.randint(0, 7, (50,))
    reference = reference_class(logits, target)
    assert torch.equal(reference_class(logits + torch.randn(50, 1), target), reference)
    order = torch.randperm(7)
    place = order.argsort()
    assert torch.equal(order[reference_class(logits[:, order], place[target])], reference)
    with pytest.raises(ValueError, match="expected 2 classes or more, found 1"):
        reference_class(logits[:, :1], target)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_two_classes_are_classifier_free_guidance(kind: str, alpha: float, sigma: float) -> None:
    """With the exact posterior, s_max = w - 1 is CFG at w."""
    judge = posterior(2)
    step = judge.mixture.step(noisy(), alpha, sigma, (0, 1, 0, 1, 0, 1), kind)
    guided = GFCG(3.0, judge, threshold=0.0).predict(step)
    torch.testing.assert_close(guided, CFG(4.0).predict(step), rtol=0, atol=1e-10)
    both = (CFG(2.5) + GFCG(1.5, judge, threshold=0.0)).predict(step)
    torch.testing.assert_close(both, CFG(4.0).predict(step), rtol=0, atol=1e-10)


def test_two_classes_are_classifier_free_guidance_over_a_run() -> None:
    judge, ends = posterior(2), []
    angles = torch.linspace(1.4, 0.1, 21, dtype=torch.float64)
    for rule in (GFCG(2.0, judge, threshold=0.0), CFG(3.0), CFG(1.0)):
        torch.manual_seed(3)
        x = noisy()
        for now, after in pairwise(angles):
            step = judge.mixture.step(x, float(now.cos()), float(now.sin()), (0, 0, 0, 1, 1, 1))
            eps = rule.predict(step)
            x = after.cos() * step.x0(eps) + after.sin() * eps
        ends.append(x)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)
    assert (ends[0] - ends[2]).abs().max() > 0.01


@pytest.mark.parametrize("doubt", DOUBTS)
def test_agrees_with_a_loop_written_from_the_equations(doubt: str) -> None:
    judge, targets = posterior(5), (0, 1, 2, 3, 4, 0)
    step = judge.mixture.step(noisy(), 0.6, 0.8, targets, "v_prediction")
    tau = 0.3
    guided = GFCG(2.0, judge, doubt=doubt, temperature=2.0, threshold=tau).predict(step)
    p = torch.softmax(judge.logits(step.x, step) / 2, 1)
    eps = judge.mixture.eps(step.x, 0.6, 0.8)
    used = 0
    for b, c in enumerate(targets):
        r = max((k for k in range(5) if k != c), key=lambda k: float(p[b, k]))
        g = {
            "one_minus_p": 1 - p[b, c],
            "pair": p[b, r] / (p[b, c] + p[b, r]),
            "p_ref": p[b, r],
            "constant": torch.tensor(1.0),
        }[doubt]
        s = 2.0 * g if g >= tau else 0.0
        used += bool(s)
        expected = eps[c, b] + s * (eps[c, b] - eps[r, b])
        torch.testing.assert_close(step.eps(guided)[b], expected)
    assert used
    assert step.notes["GFCG: reference"][0] in NAMES[1:]


def test_is_conditional_where_the_classifier_is_sure() -> None:
    judge = posterior(4)
    step = judge.mixture.step(noisy(2), 0.6, 0.8, (0, 3))
    sure = Fixed(((0.0, -torch.inf, -torch.inf, -torch.inf), (-800.0, -800.0, -800.0, 0.0)))
    guided = GFCG(5.0, sure, threshold=0.0).predict(step)
    assert torch.equal(guided, step.evaluate(COND))
    assert torch.equal(
        (CFG(3.0) + GFCG(5.0, sure, threshold=0.0)).predict(step),
        (CFG(3.0) + SoftPAG(0.0)).predict(step),
    )
    assert step.notes["GFCG: scale"] == [0, 0]


def test_impossible_target_is_in_full_doubt() -> None:
    step = posterior(4).mixture.step(noisy(1), 0.6, 0.8, (0,))
    for doubt in DOUBTS:
        GFCG(1.0, Fixed(((-2000.0, -2001.0, 0.0, -9000.0),)), doubt=doubt).predict(step)
        assert step.notes["GFCG: scale"] == [1]
        assert step.notes["GFCG: reference"] == ["hat"]


def test_images_below_the_threshold_are_not_evaluated() -> None:
    judge = posterior(4)
    step = judge.mixture.step(noisy(3), 0.6, 0.8, (0, 0, 0))
    p = torch.tensor([0.94, 0.951, 0.96])
    rows = torch.stack([p, *[(1 - p) / 3] * 3], 1).log().tolist()
    GFCG(1.0, Fixed(tuple(map(tuple, rows)))).predict(step)
    assert step.notes["GFCG: scale"] == [pytest.approx(0.06), 0, 0]


def test_doubt_at_the_threshold_counts() -> None:
    step = posterior(4).mixture.step(noisy(1), 0.6, 0.8, (0,))
    GFCG(1.0, Fixed(((0.0, 0.0, 0.0, 0.0),)), doubt="pair", threshold=0.5).predict(step)
    assert step.notes["GFCG: scale"] == [0.5]


def test_images_without_logits_are_left_alone_and_counted() -> None:
    judge = posterior(4)
    step = judge.mixture.step(noisy(3), 0.6, 0.8, (0, 1, 2))
    nothing = Fixed(((1.0, 2.0, 3.0, 4.0), (1.0, torch.nan, 0.0, 0.0), (torch.nan,) * 4))
    for doubt in DOUBTS:
        guided = GFCG(2.0, nothing, doubt=doubt).predict(step)
        cond = step.evaluate(COND)
        assert torch.equal(guided[1:], cond[1:])
        assert not torch.equal(guided[0], cond[0])
        assert step.notes["GFCG: images without logits"] == 2
        assert step.notes["GFCG: scale"][1:] == [0, 0]


def test_nothing_is_judged_at_pure_noise_of_an_eps_model() -> None:
    step = posterior(4).mixture.step(noisy(2), 0.6, 0.8, (0, 1))
    start = replace(step, alpha=0.0, sigma=1.0)
    assert torch.equal(GFCG(2.0, Projection()).predict(start), step.evaluate(COND))
    flow = replace(start, prediction_type="flow_prediction")
    assert not torch.equal(GFCG(2.0, Projection()).predict(flow), step.evaluate(COND))


class Watched:
    """A classifier that keeps what it was given."""

    classes = ("fox", "owl", "hat", "map")

    def __init__(self, image: int | None = None) -> None:
        self.seen: list[tuple[Tensor, Step, bool]] = []
        self.image = image

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        self.seen.append((x0, step, torch.is_grad_enabled()))
        result = torch.zeros(len(x0), 4)
        if self.image is not None:
            result[torch.arange(len(x0)) != self.image, :] = torch.nan
        return result


def test_classifier_sees_the_conditional_x0_without_gradients() -> None:
    judge = posterior(4)
    step = judge.mixture.step(noisy(2), 0.6, 0.8, (0, 1), "v_prediction")
    watched = Watched()
    with torch.enable_grad():
        GFCG(2.0, watched).predict(step)
    ((x0, seen, gradients),) = watched.seen
    assert torch.equal(x0, step.x0(step.evaluate(COND)))
    assert seen is step
    assert not gradients


def test_cost_is_one_evaluation_for_the_images_in_doubt(sd: Any) -> None:
    def spent(rule: Rule, scale: float = 5.0) -> list[float]:
        with guide(sd, rule) as run:
            tiny.sample(sd, scale, batch=2)
        return [record.evaluations for record in run.report.steps]

    equal, half = GFCG(2.0, Watched()), GFCG(2.0, Watched(image=1))
    assert spent(equal, 1.0) == [2] * 4
    assert spent(CFG(3.0) + equal) == [3] * 4
    assert spent(half, 1.0) == [1.5] * 4
    assert spent(CFG(3.0) + half) == [2.5] * 4
    assert spent(equal.between(0, 0.5), 1.0) == [2, 2, 1, 1]
    silent = Watched()
    assert spent(GFCG(0.0, silent), 1.0) == [1] * 4
    assert not silent.seen
    assert not GFCG(0.0, silent).prompts()


def test_references_of_a_batch_are_evaluated_in_one_call(sd: Any) -> None:
    rule = GFCG(2.0, Fixed(((9.0, 1, 0, 0), (0, 9, 1, 0), (1, 0, 9, 0))), threshold=0.0)
    rows = tiny.Rows(sd)
    with guide(sd, rule) as run:
        together = tiny.sample(sd, scale=1.0, batch=3, steps=2)
    rows.remove()
    assert rows.seen == [3, 3, 3, 3]
    assert run.report.steps[0].extras["GFCG: reference"] == ["owl", "hat", "fox"]
    rows = tiny.Rows(sd)
    with guide(sd, rule, batching="sequential"):
        close(tiny.sample(sd, scale=1.0, batch=3, steps=2), together)
    rows.remove()
    assert rows.seen == [3, 1, 1, 1] * 2


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_reference_is_the_prompt_with_the_other_class(family: str) -> None:
    """One step is affine in the prediction, so that it shows which prompt was read."""
    pipe = tiny.FAMILIES[family]()
    plain = tiny.sample(pipe, 1.0, steps=1, prompt=["a red fox"])
    away = tiny.sample(pipe, 1.0, steps=1, prompt=["a red owl"])
    assert not torch.allclose(plain, away, atol=1e-3)
    with guide(pipe, GFCG(2.0, Fixed(((1.0, 3, 0, 0),)), doubt="constant")):
        close(tiny.sample(pipe, 1.0, steps=1, prompt=["a red Fox"]), plain + 2 * (plain - away))


def test_reference_of_a_class_label_is_a_label(dit: Any) -> None:
    seen: list[list[int]] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(kwargs["class_labels"].tolist())

    dit.transformer.register_forward_pre_hook(look, with_kwargs=True)
    judge = Fixed(((1.0, 3, 0, 0), (0, 2, 9, 1)))
    with guide(dit, CFG(3.0) + GFCG(2.0, judge, (2, 1, 5, 7), threshold=0.0)) as run:
        tiny.sample(dit, batch=2, steps=1)
    assert seen == [[1, 2, 1000, 1000], [2, 5]]
    assert run.report.steps[0].extras["GFCG: reference"] == [2, 5]


def test_a_thousand_labels_are_prepared_at_once(dit: Any, monkeypatch: Any) -> None:
    judge = Fixed((tuple(float(k) for k in range(1000)),), tuple(map(str, range(1000))))
    prepared: list[int] = []
    plain = dit.scheduler.set_timesteps

    def counted(steps: int) -> None:
        prepared.append(steps)
        plain(steps)

    monkeypatch.setattr(dit.scheduler, "set_timesteps", counted)
    with guide(dit, GFCG(2.0, judge, tuple(range(1000)))) as run:
        tiny.sample(dit, batch=2, steps=2)
    assert prepared == [2, 2]  # for the labels, and for the call
    assert run.report.steps[0].extras["GFCG: reference"] == [999, 999]


def test_a_prompt_need_not_be_a_list(sd: Any) -> None:
    rule = GFCG(2.0, Projection(), threshold=0.0)
    with guide(sd, rule):
        expected = tiny.sample(sd)
        alone = tiny.sample(sd, prompt="red fox", negative_prompt=tiny.NEGATIVE)
    assert torch.equal(alone, expected)


def test_several_images_of_a_prompt_each_have_their_own(sd: Any) -> None:
    rule = GFCG(2.0, Projection(), threshold=0.0)
    call: dict[str, Any] = {"num_images_per_prompt": 2, "generator": torch.Generator()}
    with guide(sd, CFG(3.0) + rule) as run:
        four = tiny.sample(sd, batch=2, **call | {"generator": call["generator"].manual_seed(5)})
    assert len(run.report.steps[0].extras["GFCG: scale"]) == 4
    repeated = ["red fox", "red fox", "blue owl", "blue owl"]
    noise = torch.Generator().manual_seed(5)
    settings: dict[str, Any] = {"prompt": repeated, "negative_prompt": [tiny.NEGATIVE] * 4}
    with guide(sd, CFG(3.0) + rule):
        close(tiny.sample(sd, generator=noise, **settings), four)


@pytest.mark.parametrize("name", PROMPTED)
def test_every_family_with_prompts(name: str) -> None:
    pipe = FAMILIES[name]()
    rule = GFCG(4.0, Projection(), threshold=0.0)
    with guide(pipe, GFCG(0.0, Projection())):
        plain = FAMILIES[name].call(pipe, scale=3.0, batch=2)
    with guide(pipe, rule) as run:
        joint = FAMILIES[name].call(pipe, scale=3.0, batch=2)
    assert joint.isfinite().all()
    assert (joint - plain).abs().max() > 1e-5
    assert run.report.nfe == 2 * len(run.report.steps)
    with guide(pipe, rule, batching="sequential"):
        close(FAMILIES[name].call(pipe, scale=3.0, batch=2), joint)


def weaker(pipe: Any) -> nn.Module:
    torch.manual_seed(7)
    return type(pipe.unet).from_config(pipe.unet.config).eval()


@pytest.mark.parametrize("kind", ["denoiser", "blocks"])
def test_autoguidance_sees_the_reference_class_at_no_cost(sd: Any, kind: str) -> None:
    """``cond + (w - 1 + s) (cond - weak(reference))``, of the equation by hand."""
    auto = AutoGuidance(2.0, weaker(sd) if kind == "denoiser" else ("mid",))
    judge = Fixed(((1.0, 0.0, 3.0, 0.0), (0.0, 100.0, 1.0, 0.0)))  # in doubt, and sure
    rule = GFCG(1.5, judge, doubt="one_minus_p", auto=auto)
    with guide(sd, rule) as run:
        guided = tiny.sample(sd, scale=1.0, batch=2, steps=1)
    assert run.report.nfe == 2
    with guide(sd, auto) as run:
        plain_auto = tiny.sample(sd, scale=1.0, batch=2, steps=1)
    assert run.report.nfe == 2
    plain = tiny.sample(sd, scale=1.0, batch=2, steps=1)
    close(guided[1], plain_auto[1])
    # The weak model's own sample on the other prompt, from autoguidance at 0.
    with guide(sd, AutoGuidance(0.0, auto.weak)):
        other = tiny.sample(sd, 1.0, batch=2, steps=1, prompt=["red hat", "blue owl"])
    s = 1.5 * float(1 - torch.softmax(torch.tensor([1.0, 0, 3, 0]), 0)[0])
    close(guided[0], plain[0] + (1 + s) * (plain[0] - other[0]))


def test_autoguidance_inside_is_plain_autoguidance_without_a_scale(sd: Any) -> None:
    auto = AutoGuidance(2.0, weaker(sd))
    with guide(sd, auto):
        expected = tiny.sample(sd, scale=1.0, batch=2)
    rule = GFCG(0.0, Projection(), auto=auto)
    with guide(sd, rule) as run:
        assert torch.equal(tiny.sample(sd, scale=1.0, batch=2), expected)
    assert run.report.nfe == 8
    step = posterior(4).mixture.step(noisy(1), 0.6, 0.8, (0,))
    assert list(rule.needs(step)) == list(auto.needs(step)) != []
    # A weak model at w = 1 has nothing to say: the reference is the model's own.
    with guide(sd, GFCG(2.0, Projection(), threshold=0.0)):
        expected = tiny.sample(sd, scale=1.0, batch=2)
    for neutral in (AutoGuidance(1.0, weaker(sd)), auto.between(0.0, 0.0001).between(0.5, 1)):
        with guide(sd, GFCG(2.0, Projection(), threshold=0.0, auto=neutral)):  # type: ignore[arg-type]
            assert torch.equal(tiny.sample(sd, scale=1.0, batch=2), expected)


def test_weak_references_share_one_call(sd: Any) -> None:
    weak = weaker(sd)
    rows: list[int] = []
    weak.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    judge = Fixed(((9.0, 1, 0, 0), (0, 9, 1, 0), (1, 0, 9, 0)))
    with guide(sd, GFCG(1.0, judge, threshold=0.0, auto=AutoGuidance(2.0, weak))):
        tiny.sample(sd, scale=1.0, batch=3, steps=2)
    assert rows == [3, 3]


def test_works_inside_adaptive_guidance(sd: Any) -> None:
    rule = AdaptiveGuidance(CFG(4.0) + GFCG(2.0, Projection(), threshold=0.0), threshold=-1.0)
    with pytest.warns(UserWarning, match="converged at the very first"), guide(sd, rule) as run:
        tiny.sample(sd, batch=2)
    assert [record.evaluations for record in run.report.steps] == [3, 1, 1, 1]


def test_live_images_alone_are_evaluated() -> None:
    step = posterior(4).mixture.step(noisy(3), 0.6, 0.8, (0, 1, 2))
    whole = GFCG(2.0, Watched()).predict(step)
    part = GFCG(2.0, Watched()).predict(step.only((True, False, True)))
    assert torch.equal(part[[0, 2]], whole[[0, 2]])
    assert torch.equal(part[1], step.evaluate(COND)[1])


def test_pictures_are_judged_decoded(sd: Any) -> None:
    seen: list[Tensor] = []

    def network(pictures: Tensor) -> Tensor:
        seen.append(pictures)
        return torch.stack([pictures.mean((1, 2, 3)), *[pictures.std((1, 2, 3))] * 3], 1)

    judge = DecodedClassifier(network, sd, ("fox", "owl", "hat", "map"))
    with guide(sd, GFCG(1.0, judge)) as run:
        tiny.sample(sd, scale=1.0, batch=2, steps=1)
    assert [tuple(picture.shape) for picture in seen] == [(1, 3, 16, 16)] * 2
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in seen)
    assert run.report.nfe == 2
    assert repr(judge) == "DecodedClassifier(classes=('fox', 'owl', 'hat', 'map'))"
    with pytest.raises(TypeError, match="network must be a function of pictures, found int"):
        DecodedClassifier(3, sd, ("fox", "owl"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 different names"):
        DecodedClassifier(network, sd, ("fox",))


def test_prompts_and_labels_must_name_one_class(sd: Any, dit: Any) -> None:
    rule = GFCG(2.0, Projection())
    for text, found in (("a cat", "none"), ("a fox in a hat", "'fox' and 'hat'")):
        with guide(sd, rule), pytest.raises(ValueError, match=f"exactly one .* found {found} in"):
            tiny.sample(sd, prompt=[text])
    embeds, _ = sd.encode_prompt("red fox", "cpu", 1, False)
    with guide(sd, rule), pytest.raises(ValueError, match="give the prompt as text"):
        tiny.sample(sd, 1.0, prompt=None, negative_prompt=None, prompt_embeds=embeds)
    with guide(dit, GFCG(2.0, Projection(), (5, 6, 7, 8))), pytest.raises(ValueError, match="in 1"):
        tiny.sample(dit)
    with pytest.raises(ValueError, match="labels below 1000, found 1000; 1000 is the label w"):
        guide(dit, GFCG(2.0, Projection(), (1, 2, 3, 1000)))
    step = posterior(4).mixture.step(noisy(1), 0.6, 0.8, (0,))
    with pytest.raises(ValueError, match="must hold its prompts, found none"):
        rule.predict(replace(step, prompts=None))
    with pytest.raises(ValueError, match=r"logits of shape \(1, 4\), found \(1, 2\)"):
        GFCG(1.0, Fixed(((1.0, 2.0),))).predict(step)


def test_bad_settings() -> None:
    judge = Projection()
    with pytest.raises(TypeError, match=r"classes and a method logits\(x0, step\), found str"):
        GFCG(1.0, "classifier")
    with pytest.raises(ValueError, match="scale must be a finite number from 0 up, found -1"):
        GFCG(-1.0, judge)
    with pytest.raises(ValueError, match="must name the 4 classes of the classifier, found 2"):
        GFCG(1.0, judge, ("fox", "owl"))
    for classes in (("fox", "owl", "hat", "Fox"), ("fox", 1, 2, 3), ("", "a", "b", "c"), (1,)):
        with pytest.raises(ValueError, match="at least 2 different names, or labels from 0 up"):
            GFCG(1.0, judge, classes)
    with pytest.raises(TypeError, match="at least 2 different names"):
        GFCG(1.0, judge, "foxes")
    with pytest.raises(ValueError, match="doubt must be one of one_minus_p, pair"):
        GFCG(1.0, judge, doubt="entropy")
    with pytest.raises(ValueError, match=r"temperature must be a finite number from 0\.001 up"):
        GFCG(1.0, judge, temperature=0)
    with pytest.raises(ValueError, match="threshold must be a finite number from 0 to 1"):
        GFCG(1.0, judge, threshold=1.5)
    with pytest.raises(TypeError, match=r"auto must be AutoGuidance\(\.\.\.\), found CFG"):
        GFCG(1.0, judge, auto=CFG(2.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classifier: classes must be at least 2"):
        GFCG(1.0, Projection(("fox",)))


def test_repr_json_and_text_rebuild_it() -> None:
    auto = AutoGuidance(2.0, ("mid",))
    judge = Fixed(((1.0, 2.0, 0.5, 0.0),))
    rule = GFCG(linear(1, 3), judge, ("a", "b", "c", "d"), "pair", 2.0, 0.1, auto).between(0.1, 0.9)
    assert eval(repr(rule), {c.__name__: c for c in (GFCG, Fixed, AutoGuidance, linear)}) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    with pytest.raises(ValueError, match="classifier has no JSON form"):
        GFCG(1.0, Watched()).to_config()
    assert repr(GFCG(1.0, Watched())) == (
        "GradientFreeClassifierGuidance(scale=1.0, classifier=<Watched>)"
    )


def test_evaluates_nothing_but_the_conditional_and_the_references() -> None:
    step = posterior(4).mixture.step(noisy(2), 0.6, 0.8, (0, 1))
    asked: list[Any] = []
    inner = step.evaluator

    def spy(branch: Any) -> Tensor:
        asked.append(getattr(branch, "branch", branch))
        return inner(branch)

    GFCG(1.0, Watched()).predict(replace(step, evaluator=spy))
    assert UNCOND not in asked
    assert {branch.text.index for branch in asked if branch != COND} == {0, 1}
