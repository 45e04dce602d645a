"""The gated rank-one edit of a projection, for one concept or several.

"Key-Locked Rank One Editing for Text-to-Image Personalization", Yoad Tewel, Rinon Gal, Gal Chechik
and Yuval Atzmon, 2023, arXiv 2305.01644, equation 3 and, for several concepts, appendix B. The edit
without gates is ROME's, "Locating and Editing Factual Associations in GPT", Kevin Meng, David Bau,
Alex Andonian and Yonatan Belinkov, 2022, arXiv 2202.05262.

    r_j = e^T C^-1 i_j / (i_j^T C^-1 i_j)
    h   = W (e - P e) + sum_j sigmoid((r_j - beta_j) / tau_j) o_j

P projects on the span of the target inputs i_j, orthogonally in ``<a, b> = a^T C^-1 b``, where C is
the uncentred second moment of the encodings. The authors published no code. The projector for
several concepts is the exact one of the appendix as public re-implementations quote it: a sum of
single edits equals it only where the i_j are orthogonal.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

_RCOND = 1e-6


@dataclass(frozen=True)
class Concepts:
    """Target inputs prepared for any number of projections, which share them.

    Attributes:
        i_stars: target inputs ``(J, d_in)``.
        ratios: rows ``C^-1 i_j / (i_j^T C^-1 i_j)``, ``(J, d_in)``; ``x @ ratios.T`` gives r.
        duals: rows whose products with x are the coefficients of P x, ``(J, d_in)``.
    """

    i_stars: Tensor
    ratios: Tensor
    duals: Tensor

    @staticmethod
    def of(i_stars: Tensor, weighted: Tensor) -> Concepts:
        """Prepare target inputs ``(J, d_in)``, given also as rows ``C^-1 i_j``, ``(J, d_in)``.

        Raises:
            ValueError: shapes that differ, or an input without energy.
        """
        if i_stars.ndim != 2 or weighted.shape != i_stars.shape:
            raise ValueError(
                f"i_stars and C^-1 i_stars must be (concepts, d_in), found shapes "
                f"{tuple(i_stars.shape)} and {tuple(weighted.shape)}"
            )
        i, rows = i_stars.double(), weighted.double()
        gram = rows @ i.T
        energies = gram.diagonal()
        if not bool((energies > 0).all()):
            raise ValueError(
                "i_stars must have i^T C^-1 i > 0, found "
                f"{float(energies.min()):g}: the input is zero or C is not positive definite; "
                "estimate C from more captions or with more shrinkage"
            )
        # Correlations instead of energies, so that concepts of unlike size are told apart alike.
        size = energies.sqrt()
        correlations = gram / size[:, None] / size[None, :]
        if float(torch.linalg.eigvalsh(correlations)[0]) < _RCOND:
            warnings.warn(
                "two concepts have the same direction, so that their shares cannot be told apart",
                stacklevel=3,
            )
        inverse = torch.linalg.pinv(correlations, rtol=_RCOND, hermitian=True)
        duals = (inverse / size[:, None] / size[None, :]) @ rows
        kind = torch.promote_types(i_stars.dtype, torch.float32)
        ratios = rows / energies[:, None]
        return Concepts(i_stars.to(kind), ratios.to(kind), duals.to(kind))

    def gates(self, x: Tensor, beta: float | Tensor, tau: float | Tensor) -> Tensor:
        """How much of each concept's output the rows of ``x`` ``(..., d_in)`` get, ``(..., J)``."""
        if not bool((torch.as_tensor(tau) > 0).all()):
            raise ValueError(f"tau must be above 0, found {tau}")
        r = x.to(self.ratios.dtype) @ self.ratios.T
        return torch.sigmoid((r - beta) / tau)

    def remove(self, x: Tensor) -> Tensor:
        """``x - P x`` for rows ``(..., d_in)``."""
        wide = x.to(self.duals.dtype)
        return wide - (wide @ self.duals.T) @ self.i_stars


def gated_rank_one(
    x: Tensor,
    weight: Tensor,
    i_stars: Tensor,
    o_stars: Tensor,
    c_inv: Tensor,
    beta: float | Tensor,
    tau: float | Tensor,
) -> Tensor:
    """The output of a projection that maps the directions of concepts to outputs of their own.

    Args:
        x: encodings ``(..., d_in)``.
        weight: of the projection, ``(d_out, d_in)``.
        i_stars: target input of each concept, ``(J, d_in)``, not zero.
        o_stars: target output of each concept, ``(J, d_out)``.
        c_inv: inverse of the encodings' uncentred second moment, ``(d_in, d_in)``, symmetric and
            positive definite; its scale does not matter.
        beta: bias of the gates, a number or ``(J,)``; about 0.6 to 0.75. Where every beta is large,
            the concepts' directions are removed and nothing is put in their place.
        tau: temperature of the gates above 0, a number or ``(J,)``; 0.1 in training.

    Returns:
        ``(..., d_out)`` in the dtype of ``x``; computed in at least float32.

    Raises:
        ValueError: shapes that do not fit, a target input without energy, a tau not above 0.

    Source: equation 3 and appendix B of the paper.
    """
    if o_stars.shape != (len(i_stars), len(weight)):
        raise ValueError(
            f"o_stars must be (concepts, d_out) = {(len(i_stars), len(weight))}, found "
            f"{tuple(o_stars.shape)}"
        )
    if c_inv.shape != (i_stars.shape[-1],) * 2:
        raise ValueError(
            f"c_inv must be (d_in, d_in) = {(i_stars.shape[-1],) * 2}, found {tuple(c_inv.shape)}"
        )
    concepts = Concepts.of(i_stars, i_stars @ c_inv.to(i_stars.dtype))
    kept = concepts.remove(x)
    gated = concepts.gates(x, beta, tau) @ o_stars.to(kept.dtype)
    return (kept @ weight.to(kept.dtype).T + gated).to(x.dtype)
