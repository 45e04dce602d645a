"""Perfusion: a concept as a gated rank-one edit of every cross-attention, its keys locked.

"Key-Locked Rank One Editing for Text-to-Image Personalization", Yoad Tewel, Rinon Gal, Gal Chechik
and Yuval Atzmon, 2023, arXiv 2305.01644, equations 1 to 3, section 4 and appendix B.

Keys say where in the picture a word goes and are locked to those of a wider word, the
super-category; values say what is drawn there and are trained, one vector for each layer, beside
the embedding of the placeholder. ``i*``, the encoding that is edited, follows the placeholder's by
a moving average. The authors published no code; what public re-implementations and notes agree on
is taken over, and

- i* and the outputs start from the super-category averaged over all prompts, not over one batch;
- i* moves once for each optimizer step, by the mean over all of its pictures;
- no gradient flows into i*, and nothing decays;
- the squared error is weighted by the mask, once;
- prompts without the placeholder stay as they are, unless ``only_when_present`` is False;
- the file holds ``C^-1 i*`` in place of C, and the super-category's encoding in place of the locked
  keys, which are the layer's weight times it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from personalize.core.backbone import Backbone
from personalize.core.checks import FLAG, TEXT, check_settings, finite, optional, whole
from personalize.core.encodings import at_concept, super_category_encoding, token_ids
from personalize.core.files import Artifact
from personalize.core.method import Batch, Context, Training
from personalize.core.projections import Edit, Editing, cross_projections, projected
from personalize.core.tokens import Placeholder, check_token
from personalize.covariance import Covariance, estimate_covariance

_SEEN = "seen."
"""Before the numbers of the samples of an unfinished step, in a checkpoint."""


@dataclass(frozen=True)
class Perfusion:
    """How to train a concept for Stable Diffusion 1, 2 or XL; about 65 KB at Stable Diffusion 1.5.

    Learning rates are those of a public re-implementation: 0.03 for the values, a fifth of it for
    the embedding.

    Args:
        placeholder_token: the concept's word in prompts, such as ``<my-cat>``.
        super_category: what the concept is one of, such as ``cat``; of several tokens the last one
            counts.
        covariance: from ``estimate_covariance``, or the path of its file; concepts that go into one
            picture must share it. None estimates one from ``generic_captions()``.
        key_lock: False trains the keys as well, to measure what locking is worth.
        beta, temperature: of the gates in training.
        ema: share of i* that stays at each step, from 0 up to below 1.
        embedding_lr: learning rate of the embedding, relative to that of the values.
        clip_skip: layers of CLIP to leave out, as pictures are to be drawn with.

    Raises:
        TypeError, ValueError: a setting is not of its kind or out of its range.
    """

    name: ClassVar[str] = "perfusion"
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.03,
        "max_train_steps": 400,
        "train_batch_size": 4,
        "gradient_accumulation_steps": 4,
    }

    placeholder_token: str
    super_category: str
    covariance: Any = None
    key_lock: bool = True
    beta: float = 0.75
    temperature: float = 0.1
    ema: float = 0.99
    embedding_lr: float = 0.2
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        check_token(self.placeholder_token)
        above_0 = finite("above 0", lambda value: value > 0)
        check_settings(
            self,
            {
                "super_category": TEXT,
                "key_lock": FLAG,
                "beta": finite(""),
                "temperature": above_0,
                "ema": finite("from 0 to below 1", lambda value: 0 <= value < 1),
                "embedding_lr": above_0,
                "clip_skip": optional(whole(0)),
            },
        )
        if not self.super_category.strip():
            raise ValueError("Perfusion: super_category must be a word such as 'cat', found none")
        if not isinstance(self.covariance, Covariance | str | Path | None):
            raise TypeError(
                f"Perfusion: covariance must be a Covariance or the path of its file, found "
                f"{type(self.covariance).__name__}"
            )

    def start(self, context: Context) -> Training:
        """Put the edit on the denoiser.

        Raises:
            ValueError: a pipeline without cross-attention, a covariance of another one, a prompt
                without ``{}``, a token that is taken.
        """
        cross_projections(context.backbone.denoiser)
        prompts = sorted({prompt for item in context.items for prompt in item.prompts})
        for prompt in prompts:
            if "{}" not in prompt:
                raise ValueError(
                    f"every prompt must hold {{}}, where the concept goes, found {prompt!r}"
                )
        return _Training(self, context, prompts, self._covariance(context.backbone))

    def _covariance(self, backbone: Backbone) -> Covariance:
        given = self.covariance
        if given is None:
            return estimate_covariance(backbone.pipe, clip_skip=self.clip_skip)
        found = given if isinstance(given, Covariance) else Covariance.load(given)
        found.check(backbone.pipe, self.clip_skip)
        return found


class _Training(Training):
    def __init__(
        self, settings: Perfusion, context: Context, prompts: Sequence[str], covariance: Covariance
    ) -> None:
        self._settings, self._covariance, self._mean = settings, covariance, context.mean
        self.placeholder = settings.placeholder_token
        self._backbone = context.backbone
        word, device = settings.super_category, context.device
        rows = {
            encoder.key: encoder.table[[token_ids(encoder.tokenizer, word)[-1]]].float()
            for encoder in self._backbone.text_encoders
        }
        self._placeholder = Placeholder(self._backbone, settings.placeholder_token, rows)
        self._super_category = super_category_encoding(
            self._backbone, prompts, word, settings.clip_skip
        ).to(device)
        self._inverse = covariance.solve(torch.eye(len(covariance.matrix))).to(device)
        self._i_star = self._super_category.clone()
        self._seen: dict[int, Tensor] = {}
        outputs = {
            name: output[None]
            for name, output in projected(self._backbone.denoiser, self._super_category).items()
        }
        trained = {
            name: nn.Parameter(value)
            for name, value in outputs.items()
            if name.endswith("to_v") or not settings.key_lock
        }
        self._outputs = outputs | trained
        embeddings = {f"embedding.{key}": row for key, row in self._placeholder.rows.items()}
        self.parameters = embeddings | trained
        self.groups = dict.fromkeys(embeddings, settings.embedding_lr)
        self._editing = self._edited()

    def loss(self, batch: Batch) -> Tensor:
        token = self.placeholder
        prompts = [prompt.replace("{}", token) for prompt in batch.prompts]
        conditioning = self._placeholder.encode(prompts, self._settings.clip_skip)
        if torch.is_grad_enabled():
            rows = at_concept(self._backbone, conditioning.embeds.detach(), batch.prompts, 1)
            self._seen |= dict(zip(batch.samples, rows.float(), strict=True))
        predicted = self._backbone.predict(batch.noisy, batch.timesteps, conditioning, batch.sizes)
        return batch.error(predicted)

    def after_step(self, step: int) -> Mapping[str, float]:
        seen = self._mean(torch.stack(list(self._seen.values())).mean(0))
        ema = self._settings.ema
        self._seen = {}
        self._set(ema * self._i_star + (1 - ema) * seen)
        outputs = [value for name, value in self._outputs.items() if name.endswith("to_v")]
        return {
            "i_star_cosine": float(
                torch.cosine_similarity(self._i_star, self._super_category, dim=0)
            ),
            "value_norm": float(torch.cat([value.detach().flatten() for value in outputs]).norm()),
        }

    def state(self) -> dict[str, Tensor]:
        seen = {f"{_SEEN}{sample}": row for sample, row in self._seen.items()}
        return {"i_star": self._i_star, **seen}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._set(tensors["i_star"].to(self._i_star))
        self._seen = {
            int(name.removeprefix(_SEEN)): row.to(self._i_star)
            for name, row in tensors.items()
            if name.startswith(_SEEN)
        }

    def artifact(self) -> Artifact:
        settings = self._settings
        tensors = {
            **{f"embedding.{key}": row for key, row in self._placeholder.rows.items()},
            "i_star": self._i_star,
            "c_inv_i_star": self._weighted(),
            "super_category": self._super_category,
            **{name: self._outputs[name][0] for name in self._outputs if name in self.parameters},
        }
        metadata = {
            "token": settings.placeholder_token,
            "super_category": settings.super_category,
            "beta": json.dumps(settings.beta),
            "temperature": json.dumps(settings.temperature),
            "clip_skip": json.dumps(settings.clip_skip),
            "covariance": self._covariance.digest,
        }
        kept = {name: value.detach().float().cpu() for name, value in tensors.items()}
        return Artifact("perfusion", kept, metadata)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._editing.stop()
        try:
            yield
        finally:
            self._editing = self._edited()

    def stop(self) -> None:
        self._editing.stop()

    def _weighted(self) -> Tensor:
        return (self._inverse @ self._i_star.double()).float()

    def _edited(self) -> Editing:
        numbers = (self._settings.beta, self._settings.temperature)
        beta, tau = (torch.tensor([number], device=self._i_star.device) for number in numbers)
        edit = Edit(self._i_star[None], self._weighted()[None], self._outputs, beta, tau)
        return Editing(self._backbone.denoiser, edit)

    def _set(self, i_star: Tensor) -> None:
        self._i_star = i_star
        self._editing.stop()
        self._editing = self._edited()
