"""The loss of networks that learn which picture belongs to which text, as in CLIP."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy over the similarities (B, B); equal captions share the target."""
    logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
