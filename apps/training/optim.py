"""Muon for every weight matrix, convolutions flattened, and AdamW for what is left.

Muon is by Jordan et al. (2024). It is used because the autoencoder's loss fell much faster with it
than with AdamW alone in trial runs, which were too short to publish a ratio.
"""

import torch
from torch import Tensor, nn


class Optimizer:
    """torch's Muon and AdamW under one learning rate.

    Matrices and convolution kernels (as matrices of shape (out, in * h * w)) go to Muon with its
    update scaled to the size of AdamW's; vectors and embeddings go to AdamW.
    """

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        embeddings = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        named = dict(model.named_parameters())
        flat = {n: p for n, p in named.items() if p.ndim >= 2 and id(p) not in embeddings}
        self._rest = {name: p for name, p in named.items() if name not in flat}
        self._kernels = flat
        for kernel in flat.values():
            kernel.data = kernel.data.contiguous()
        self._matrices = {n: nn.Parameter(p.detach().flatten(1)) for n, p in flat.items()}
        self._muon = torch.optim.Muon(
            self._matrices.values(), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(
            self._rest.values(), betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )

    def step(self, lr: float) -> None:
        """Update from the gradients of the model's parameters, then drop them."""
        for optimizer in (self._muon, self._adamw):
            for group in optimizer.param_groups:
                group["lr"] = lr
        for name, kernel in self._kernels.items():
            if kernel.grad is not None:
                self._matrices[name].grad = kernel.grad.contiguous().flatten(1)
                kernel.grad = None
        for optimizer in (self._muon, self._adamw):
            optimizer.step()
            optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by parameter, as ``key.parameter``."""
        states = [(self._muon, self._matrices), (self._adamw, self._rest)]
        return {
            f"{key}.{name}": value
            for optimizer, parameters in states
            for name, parameter in parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`tensors` returned."""
        for optimizer, parameters in ((self._muon, self._matrices), (self._adamw, self._rest)):
            for name, parameter in parameters.items():
                found = {
                    key: tensors[f"{key}.{name}"]
                    for key in ("momentum_buffer", "step", "exp_avg", "exp_avg_sq")
                    if f"{key}.{name}" in tensors
                }
                if found:
                    optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device)
                        for key, value in found.items()
                    }
