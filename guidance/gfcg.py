"""Gradient-free classifier guidance (GFCG): push away from the class that a picture resembles.

"Gradient-Free Classifier Guidance for Diffusion Model Sampling", Rahul Shenoy, Zhihong Pan, Kaushik
Balakrishnan, Qisen Cheng, Yongmoon Jeon, Heejune Yang and Jaewon Kim, 2024, arXiv 2411.15393.

    p      = softmax(classifier(x0(cond)) / T)
    r      = argmax_{k != c} p_k                       the most confusing other class
    s      = s_max g(p),  g = 1 - p_c;  0 where g < tau
    guided = cond + s (cond - reference)               reference: the model on class r

**This is our reconstruction, not the authors' rule.** Known from the paper's abstract: a
classifier, used without gradients, yields a reference class and a scale at every step; it adds to
classifier-free guidance, and to autoguidance at no cost. Known from published summaries: it judges
the denoised sample, and the reference is the model's own prediction on the likeliest other class.
The formula of the scale, the classifiers, the range of steps, the form for text and all defaults
here are ours.

Why 1 - p_c: with the exact posterior of the noisy sample, cond - uncond is the sum over k != c of
p_k (cond - pred_k). For two classes that is (1 - p_c) (cond - reference), and classifier-free
guidance at w is this rule at s_max = w - 1, exactly. For more classes one term stands for all.

With autoguidance the weak model sees the reference class wherever s > 0, and the class itself
elsewhere: ``cond + (w - 1 + s) (cond - weak(r))``, one weak evaluation either way.

Works in the model's own space; being a difference, it is the same update in every space. Only the
classifier sees x0. An image whose logits are not numbers is left alone, and counted in the report;
so are all images at pure noise, where a noise prediction has no x0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidance.auto_guidance import AutoGuidance
from guidance.core.classes import Text, check_classes, class_of, renamed
from guidance.core.family import Family
from guidance.core.kinds import Direction
from guidance.core.perturb import push_away
from guidance.core.prediction import COND, Branch, Step, prompt, wide
from guidance.core.schedule import Scale, check_number, check_scale, scale_at
from guidance.evaluators.protocol import Classifier

DOUBTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one_minus_p": lambda target, reference: 1 - target.exp(),
    "pair": lambda target, reference: torch.sigmoid(reference - target),
    "p_ref": lambda target, reference: reference.exp(),
    "constant": lambda target, reference: torch.ones_like(target),
}
"""``g`` of the log probabilities of the target and of the reference, from 0 to 1."""


def reference_class(logits: Tensor, target: Tensor) -> Tensor:
    """The likeliest class other than the target; of equals the first.

    Args:
        logits: ``(B, K)`` with K from 2 up.
        target: class of each image, ``(B,)`` from 0 to K - 1.

    Returns:
        Class ``(B,)``, never the target.

    Raises:
        ValueError: fewer than two classes.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"reference_class: expected 2 classes or more, found {logits.shape[1]}")
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= target[:, None])
    return others.gather(1, logits.gather(1, others).argmax(1, keepdim=True)).squeeze(1)


@dataclass(frozen=True, repr=False)
class GradientFreeClassifierGuidance(Direction):
    """Guidance away from the class that a classifier mistakes a picture for, image by image.

    A reconstruction: see the top of this file for what is the paper's and what is ours. One
    evaluation more for the images in doubt, none for the others. Sums with CFG.

    Args:
        scale: ``s_max``, finite number from 0 up, schedule, or function of the fraction of the run;
            where classifier-free guidance has ``w``, start from ``w - 1``. Neutral at 0.
        classifier: tells the classes of predictions of x0, see ``guidance.evaluators.Classifier``.
        classes: what the model calls them, in the classifier's order: words or phrases of which
            every prompt holds exactly one, which the reference prompt replaces (a closed list of
            whole prompts is such a list, too), or labels of a class-conditional model. None for the
            classifier's own names.
        doubt: ``g``: ``"one_minus_p"``, ``"pair"`` for ``p_r / (p_c + p_r)``, ``"p_ref"`` for
            ``p_r``, or ``"constant"`` for 1.
        temperature: ``T`` from 0.001; 1 to 4 against a classifier that is too sure.
        threshold: ``tau`` from 0 to 1; images with less doubt are left alone.
        auto: autoguidance whose weak model is to see the reference class, at no cost; do not add
            the same rule to the chain.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block, a
            label that the model has no class for; in a call, a prompt that does not name exactly
            one class, or logits of another shape.
    """

    scale: Scale
    classifier: Any
    classes: Sequence[Text] | None = None
    doubt: str = "one_minus_p"
    temperature: float = 1.0
    threshold: float = 0.05
    auto: AutoGuidance | None = None

    def __post_init__(self) -> None:
        owner = "GradientFreeClassifierGuidance"
        object.__setattr__(self, "scale", check_scale(owner, "scale", self.scale))
        if not isinstance(self.classifier, Classifier):
            raise TypeError(
                f"{owner}: classifier must have classes and a method logits(x0, step), found "
                f"{type(self.classifier).__name__}"
            )
        if self.classes is not None:
            object.__setattr__(self, "classes", check_classes(owner, self.classes))
        known = len(check_classes(f"{owner}: classifier", self.classifier.classes))
        if len(self._classes) != known:
            raise ValueError(
                f"{owner}: classes must name the {known} classes of the classifier, found "
                f"{len(self._classes)}"
            )
        if self.doubt not in DOUBTS:
            raise ValueError(
                f"{owner}: doubt must be one of {', '.join(DOUBTS)}, found {self.doubt!r}"
            )
        for name, low, high in (("temperature", 1e-3, float("inf")), ("threshold", 0.0, 1.0)):
            number = check_number(owner, name, getattr(self, name), low, high)
            object.__setattr__(self, name, number)
        if not isinstance(self.auto, AutoGuidance | None):
            raise TypeError(f"{owner}: auto must be AutoGuidance(...), found {self.auto!r:.80}")

    @property
    def _classes(self) -> tuple[Text, ...]:
        """What the model calls the classes."""
        return tuple(self.classifier.classes if self.classes is None else self.classes)

    def prompts(self) -> tuple[prompt, ...]:
        if self.scale == 0:
            return ()
        return tuple(prompt(renamed(self._classes, k)) for k in range(len(self._classes)))

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        labels = [label for label in self._classes if isinstance(label, int)]
        count = getattr(model, "config", {}).get("num_embeds_ada_norm")
        if labels and count is not None and max(labels) >= count:
            raise ValueError(
                f"GradientFreeClassifierGuidance: classes must be labels below {count}, found "
                f"{max(labels)}; {count} is the label without a class"
            )
        return () if self.auto is None else self.auto.check(model, family)

    def needs(self, step: Step) -> Iterable[Branch]:
        # References are known only once cond is; autoguidance alone can be announced.
        return self.auto.needs(step) if self.auto and not self._scale_at(step) else ()

    def guide(self, step: Step) -> Tensor:
        cond, scale = step.evaluate(COND), self._scale_at(step)
        if scale == 0:
            return self.auto.guide(step) if self.auto else cond
        doubts, references = self._judged(step, cond)
        strengths = scale * doubts
        step.notes["GFCG: scale"] = strengths.tolist()
        branches: list[Branch | None] = [
            prompt(renamed(self._classes, reference)) if strength > 0 else None
            for reference, strength in zip(references, strengths.tolist(), strict=True)
        ]
        excess = self.auto.excess(step) if self.auto else 0.0
        if self.auto and excess:
            step.notes["AutoGuidance: scale"] = excess + 1
            branches = [self.auto.branch(step, of or COND) for of in branches]
        return push_away(cond, step.evaluate_each(branches), strengths + excess)

    def _judged(self, step: Step, cond: Tensor) -> tuple[Tensor, list[int]]:
        """Doubt ``g`` about each image ``(B,)``, 0 below the threshold, and its reference class."""
        if step.prompts is None:
            raise ValueError(
                "GradientFreeClassifierGuidance: the call must hold its prompts, found none to "
                "read; give them as text or class labels rather than embeddings"
            )
        targets = torch.tensor([class_of(text, self._classes) for text in step.prompts])
        targets = targets.to(cond.device)
        if step.alpha < 1e-3 and step.prediction_type == "epsilon":
            return torch.zeros(len(cond), device=cond.device), targets.tolist()
        with torch.no_grad():
            logits = wide(self.classifier.logits(step.x0(cond), step))
        if logits.shape != (len(cond), len(self._classes)):
            raise ValueError(
                f"GradientFreeClassifierGuidance: classifier must return logits of shape "
                f"{(len(cond), len(self._classes))}, found {tuple(logits.shape)}"
            )
        references = reference_class(logits, targets)
        log_p = torch.log_softmax(logits / self.temperature, 1)
        target, reference = (log_p.gather(1, k[:, None])[:, 0] for k in (targets, references))
        doubts = DOUBTS[self.doubt](target, reference)
        unjudged = log_p.isnan().any(1)
        step.notes["GFCG: images without logits"] = int(unjudged.sum())
        step.notes["GFCG: reference"] = [self._classes[k] for k in references.tolist()]
        ignored = unjudged | (doubts < self.threshold)
        return torch.where(ignored, 0.0, doubts), references.tolist()

    def _scale_at(self, step: Step) -> float:
        return scale_at(self.scale, step.fraction, "GradientFreeClassifierGuidance")
