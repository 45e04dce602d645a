"""MinorityPrompt: rare pictures of a prompt, by a token that is learned while they are made.

"Minority-Focused Text-to-Image Generation via Prompt Optimization", Soobin Um and Jong Chul Ye,
2024, arXiv 2410.07838.

    h   = x0(x_t; C_v)                            C_v: the prompt with one more token of embedding v
    x_s = a_s h + s_s n         n ~ N(0, I)       to a fixed level s, new noise every time
    hh  = x0(x_s; C)                              C: the prompt as it is
    J   = | sg(h) - hh | + lambda | h - sg(hh) |

v climbs J by Adam, a few times at each of the first steps: what the model reconstructs badly is
rare. The step is then made with C_v, and so are all later ones. Every image has a token of its own.

With lambda = 1, the authors' value and the only one here, the two terms with a stopped gradient
(sg) are the two partial derivatives of the plain norm |h - hh|, so that the gradient of J is that
of the norm; that is what is computed, at half of J's value. Predictions are conditional, without
classifier-free guidance, which comes after and sees C_v as its condition.

Deviations from the authors' code: the token is learned in the first tenth of the calls instead of
the times above 900, which is the same 5 of 50 DDIM steps and holds for every solver; the noise
level s is the nearest of the sampler's own steps; noise is each image's own, so that it does not
depend on what it shares a batch with. An image whose gradient is not finite keeps its token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.gradient import finite_rows
from guidance.core.kinds import Conditioning
from guidance.core.noise import noise_like, own_generators
from guidance.core.prediction import MIN_SIGNAL, Step, wide
from guidance.core.rule import Token
from guidance.core.schedule import check_number
from guidance.core.token import PromptToken

_NAME = "MinorityPrompt"
_EMBEDDINGS = f"{_NAME}: embeddings"
_TEXT = f"{_NAME}: text"


def reconstruction_error(h: Tensor, hh: Tensor) -> Tensor:
    """``|h - hh|`` of each image, ``(B,)`` in float32 at least; differentiable where it is 0, too.

    Args:
        h: what the model takes the clean image for, ``(B, ...)``.
        hh: the same after noise was added to it, ``(B, ...)``.
    """
    return ((wide(h) - wide(hh)).square().flatten(1).sum(1) + 1e-12).sqrt()


@dataclass(frozen=True, repr=False)
class MinorityPrompt(Conditioning):
    """A learned token in the prompt that makes pictures rarer; add it to CFG.

    Needs a pipeline whose denoiser is given what ``encode_prompt`` returns: Stable Diffusion, XL
    and others. While the token is learned, each iteration costs two evaluations and a pass back
    through both and the text encoders, with the memory that training takes. The report has the
    objective of each image at every iteration. ``between`` limits learning and the token's use.

    Args:
        iterations: of Adam at a step, whole number from 0 up. Neutral at 0.
        rate: Adam's learning rate, above 0.
        until: share of the calls, from the first on, in which the token is learned.
        level: ``s``, noise that is added, as a share of the sampler's noise levels from 0 to 1.
        word: whose embedding the token starts from, one token of the tokenizer; None for the mean
            of the vocabulary. It steers which rare pictures appear: "old" ages people, say, and a
            word of origin changes it.
        position: of the token, ``"end"`` or ``"start"`` of the prompt. A prompt that is cut off at
            its end has it at the start.
        seed: of the noise, whole number from 0 up.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; in a run, a pipeline whose
            prompts cannot be given a token, or a word that is not one token.
    """

    iterations: int = 10
    rate: float = 0.01
    until: float = 0.1
    level: float = 0.75
    word: str | None = None
    position: str = "end"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"until": 1.0, "level": 1.0, "rate": float("inf")}
        for name, high in limits.items():
            number = check_number(_NAME, name, getattr(self, name), 0, high)
            object.__setattr__(self, name, number)
        if self.rate == 0:
            raise ValueError(f"{_NAME}: rate must be above 0, found 0")
        for name in ("iterations", "seed"):
            number = check_number(_NAME, name, getattr(self, name), 0, 2.0**53)
            if not number.is_integer():
                raise ValueError(f"{_NAME}: {name} must be a whole number, found {number:g}")
            object.__setattr__(self, name, int(number))
        if self.word is not None and not (isinstance(self.word, str) and self.word.strip()):
            raise TypeError(f"{_NAME}: word must be a word or None, found {self.word!r}")
        if self.position not in ("end", "start"):
            raise ValueError(f"{_NAME}: position must be end or start, found {self.position!r}")

    def check_pipe(self, pipe: Any, denoisers: Sequence[nn.Module]) -> None:
        if not hasattr(pipe, "encode_prompt"):
            raise ValueError(
                f"{_NAME}: it needs a pipeline with encode_prompt, which "
                f"{type(pipe or denoisers[0]).__name__} has not; leave the rule out"
            )

    @property
    def token(self) -> Token | None:
        return Token(self.word, self.position) if self.iterations else None

    def active(self, step: Step) -> bool:
        # Called at every step: the first sees the noise that images start from, bit for bit.
        own_generators(step, _NAME, self.seed)
        return super().active(step)

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        learns = step.fraction < self.until
        if learns and not (step.prediction_type == "epsilon" and step.alpha < MIN_SIGNAL):
            step.memory[_EMBEDDINGS] = self._learned(step, token)
            step.memory.pop(_TEXT, None)
        if _EMBEDDINGS not in step.memory:
            return {}
        if _TEXT not in step.memory:
            with torch.no_grad():
                step.memory[_TEXT] = token.encode(step.memory[_EMBEDDINGS])
        return step.memory[_TEXT]

    def _learned(self, step: Step, token: PromptToken) -> list[Tensor]:
        """The embeddings after this step's iterations."""
        errors = []
        with torch.enable_grad():
            start = step.memory.get(_EMBEDDINGS) or token.initial()
            embeddings = [each.detach().clone().requires_grad_() for each in start]
            optimizer = torch.optim.Adam(embeddings, lr=self.rate, maximize=True)
            for _ in range(self.iterations):
                error = self._error(step, token.encode(embeddings))
                if not error.requires_grad:
                    raise ValueError(
                        f"{_NAME}: text encoder and denoiser must be differentiable, found a "
                        "prediction that does not follow the token; leave out inference_mode, and "
                        "pipelines that encode prompts under no_grad"
                    )
                errors.append(error.tolist())
                slopes = torch.autograd.grad(error.sum(), embeddings)
                for each, slope in zip(embeddings, slopes, strict=True):
                    each.grad = finite_rows(slope)[0]
                optimizer.step()
        step.notes[f"{_NAME}: objective"] = errors
        return [each.detach() for each in embeddings]

    def _error(self, step: Step, text: Mapping[str, Tensor]) -> Tensor:
        """``|h - hh|`` of each image for the prompt with its token, ``(B,)``."""
        h = step.x0(step.denoise(step.x, text))
        there = step.at(self.level)
        noise = noise_like(h, own_generators(step, _NAME, self.seed))
        noisy = there.alpha * h + there.sigma * noise
        hh = replace(there, x=noisy).x0(there.denoise(noisy, {}))
        return reconstruction_error(h, hh)
