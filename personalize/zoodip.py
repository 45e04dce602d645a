"""ZOODiP: textual inversion on a model in int8, without backpropagation.

"Efficient Personalization of Quantized Diffusion Model without Backpropagation", Hoigi Seo, Wongi
Jeong, Kyungryeol Lee and Se Young Chun, 2025, arXiv 2503.14868, algorithms 1 and 2.

At each step the loss is evaluated at the new word's vector theta and at n perturbed copies of it,
on the same sample, noise and timestep; the estimated gradient loses the directions in which theta
hardly moved of late (Subspace Gradient), and Adam moves theta. Timesteps come from the part of the
noise levels that shapes a subject (PUTS): ``timestep_low`` and ``timestep_high`` of the training
settings. Memory is that of inference.

As in the authors' code and not in the paper: Adam's epsilon of 0.001, and the estimate divided by
``norm_correction``. Ours: theta stays in float32 and perturbed copies are rounded, so that nothing
drifts; several vectors, and several text encoders, are one vector for the estimate and each a
vector of its own for the subspace; processes draw the same directions and exchange losses alone.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from personalize.core.borrowed import modules
from personalize.core.checks import FLAG, TEXT, check_settings, finite, optional, whole
from personalize.core.files import Artifact
from personalize.core.method import Batch, Context, OwnStep, Training
from personalize.core.quantize import put_back, quantize
from personalize.core.tokens import Placeholder, check_token, initial_rows
from personalize.zeroth_order import (
    gradient_estimate,
    norm_correction,
    removed_directions,
    without,
)

_ADAM_EPSILON = 1e-3
_MANY, _IDLE = 50, 0.2
"""After so many differences, warn where more than this share of them is exactly zero."""


@dataclass(frozen=True)
class ZOODiP:
    """How to learn a word with forward passes only, for Stable Diffusion 1, 2, XL or 3, or FLUX.1.

    Args:
        placeholder_token: the word in prompts, such as ``<my-cat>``.
        initializer_token: text whose vectors the new ones start as, over and over; None starts from
            noise of the table's spread.
        num_vectors: how many.
        directions: n, perturbed copies at each step; n + 1 evaluations.
        mu: length of the perturbations; 0.01 for bfloat16, Stable Diffusion 2 and XL.
        history: tau, steps whose vectors make up the subspace, and for which it holds.
        nu: share of their variance to give up; 0 keeps the estimate whole.
        norm_correction: divide the estimate by what random directions lengthen it by.
        quantize: put the weights of all networks in int8. A pipeline of yours gets its own layers
            back, which are kept for that; give a path instead, and memory falls.
        clip_skip: layers of CLIP to leave out, as pictures are to be drawn with.

    Raises:
        TypeError, ValueError: a setting is not of its kind or out of its range.
    """

    name: ClassVar[str] = "zoodip"
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-3,
        "max_train_steps": 30_000,
        "train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "timestep_low": 500,
        "timestep_high": 900,
    }

    placeholder_token: str
    initializer_token: str | None = None
    num_vectors: int = 1
    directions: int = 2
    mu: float = 1e-3
    history: int = 128
    nu: float = 1e-3
    norm_correction: bool = True
    quantize: bool = True
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        check_token(self.placeholder_token)
        check_settings(
            self,
            {
                "initializer_token": optional(TEXT),
                "num_vectors": whole(1),
                "directions": whole(1),
                "mu": finite("above 0", lambda value: value > 0),
                "history": whole(1),
                "nu": finite("from 0 to 1", lambda value: 0 <= value <= 1),
                "norm_correction": FLAG,
                "quantize": FLAG,
                "clip_skip": optional(whole(0)),
            },
        )

    def start(self, context: Context) -> Training:
        """The vectors at their start, and the networks in int8.

        Raises:
            ValueError: a token that the tokenizers know, an initializer that does not fit, a prompt
                without the placeholder or so long that it is cut off.
        """
        return _Training(self, context)


class _Training(OwnStep):
    def __init__(self, settings: ZOODiP, context: Context) -> None:
        self._settings, self._context = settings, context
        self.placeholder = settings.placeholder_token
        start = initial_rows(
            context.backbone,
            context.generator,
            settings.num_vectors,
            settings.initializer_token,
            None,
        )
        self._placeholder = Placeholder(context.backbone, settings.placeholder_token, start)
        for item in context.items:
            for prompt in item.prompts:
                self._placeholder.check(prompt.replace("{}", self.placeholder), item.name)
        self.parameters = dict(self._placeholder.rows)
        self._adam = torch.optim.Adam(self.parameters.values(), eps=_ADAM_EPSILON)
        self._steps, self._differences, self._zeros = 0, 0, 0
        self._past: list[Tensor] = []
        self._removed = [row.new_zeros(0, len(row)) for row in self._vectors(self._theta())]
        self._layers = self._quantized() if settings.quantize else {}

    def loss(self, batch: Batch) -> Tensor:
        prompts = [prompt.replace("{}", self.placeholder) for prompt in batch.prompts]
        conditioning = self._placeholder.encode(prompts, self._settings.clip_skip)
        backbone = self._context.backbone
        return batch.error(
            backbone.predict(batch.noisy, batch.timesteps, conditioning, batch.sizes)
        )

    @torch.no_grad()
    def step(self, batches: Sequence[Batch], lr: float) -> Mapping[str, float]:
        theta, n = self._theta(), self._settings.directions
        shape, generator = (n, len(theta)), batches[0].generator()
        e = torch.randn(shape, generator=generator).to(theta)
        values: list[float] = []

        def loss(vectors: Tensor) -> Tensor:
            self._set(vectors)
            own = torch.cat([self.loss(batch) for batch in batches]).mean()
            values.append(float(self._context.mean(own)))
            return torch.tensor(values[-1], dtype=torch.float64)

        try:
            g = gradient_estimate(loss, theta, e, self._settings.mu)
        finally:
            self._set(theta)
        log = {"loss": values[0]}
        if not all(map(math.isfinite, values)):
            return {"loss": math.nan}
        self._count(values)
        self._move(g, lr)
        return log | {"directions_removed": float(sum(map(len, self._removed)))}

    def _move(self, g: Tensor, lr: float) -> None:
        """Adam's step along what the subspace leaves of an estimate."""
        settings = self._settings
        if settings.norm_correction:
            free = len(g) - sum(map(len, self._removed))
            g = g / norm_correction(free, settings.directions)
        parts = zip(self._vectors(g), self._removed, strict=True)
        g = torch.cat([without(part, removed) for part, removed in parts])
        self._set_gradients(g)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self._adam.zero_grad()
        self._steps += 1
        self._past.append(self._theta())
        if self._steps % settings.history == 0:
            vectors = zip(*map(self._vectors, self._past), strict=True)
            self._removed = [removed_directions(torch.stack(past), settings.nu) for past in vectors]
            self._past = []

    def _count(self, values: Sequence[float]) -> None:
        """Warn once where perturbations are too short to change the loss."""
        before = self._differences
        self._differences += len(values) - 1
        self._zeros += sum(value == values[0] for value in values[1:])
        if before < _MANY <= self._differences and self._zeros > _IDLE * self._differences:
            warnings.warn(
                f"{self._zeros} of {self._differences} perturbations did not change the loss; set "
                f"mu to {10 * self._settings.mu:g}",
                stacklevel=2,
            )

    def state(self) -> dict[str, Tensor]:
        tensors = {
            "steps": torch.tensor(self._steps),
            "differences": torch.tensor(self._differences),
            "zeros": torch.tensor(self._zeros),
        }
        if self._past:
            tensors["past"] = torch.stack(self._past)
        for number, removed in enumerate(self._removed):
            tensors[f"removed.{number}"] = removed
        for name, parameter in self.parameters.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{key}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        like = self._theta()
        self._steps, self._differences, self._zeros = (
            int(tensors[name]) for name in ("steps", "differences", "zeros")
        )
        self._past = list(tensors["past"].to(like)) if "past" in tensors else []
        self._removed = [
            tensors[f"removed.{number}"].to(like) for number in range(len(self._removed))
        ]
        for name, parameter in self.parameters.items():
            prefix = f"adam.{name}."
            self._adam.state[parameter] = {
                key.removeprefix(prefix): value.clone()
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    def artifact(self) -> Artifact:
        metadata = {
            "token": self.placeholder,
            "clip_skip": json.dumps(self._settings.clip_skip),
        }
        rows = {key: rows.detach().float().cpu() for key, rows in self.parameters.items()}
        return Artifact("textual-inversion", rows, metadata)

    def stop(self) -> None:
        networks = modules(self._context.backbone.pipe)
        for name, layers in self._layers.items():
            put_back(networks[name], layers)

    def _quantized(self) -> dict[str, dict[str, nn.Module]]:
        """Put the networks in int8; what they had is returned only if it is needed again."""
        networks = modules(self._context.backbone.pipe)
        keep = not self._context.owned
        return {name: quantize(network, keep=keep) for name, network in networks.items()}

    def _theta(self) -> Tensor:
        """All vectors as one, ``(d,)``."""
        return torch.cat([rows.detach().flatten() for rows in self.parameters.values()])

    def _set(self, theta: Tensor) -> None:
        for rows, values in self._split(theta):
            rows.detach().copy_(values)

    def _set_gradients(self, g: Tensor) -> None:
        for rows, values in self._split(g):
            rows.grad = values

    def _split(self, flat: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        sizes = [rows.numel() for rows in self.parameters.values()]
        return [
            (rows, part.view_as(rows))
            for rows, part in zip(self.parameters.values(), flat.split(sizes), strict=True)
        ]

    def _vectors(self, flat: Tensor) -> list[Tensor]:
        """The single vectors of a flat one, ``(width,)`` each."""
        return [row for _, rows in self._split(flat) for row in rows]
