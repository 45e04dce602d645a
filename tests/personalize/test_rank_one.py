"""The gated rank-one edit against closed forms and equation 3 written out."""

import math

import pytest
import torch
from torch import Tensor

from personalize.rank_one import Concepts, gated_rank_one

D_IN, D_OUT = 6, 5


def _rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _metric(seed: int = 1) -> Tensor:
    root = _rand(D_IN, D_IN, seed=seed)
    return root @ root.T + 0.1 * torch.eye(D_IN, dtype=torch.float64)


W, C_INV = _rand(D_OUT, D_IN, seed=2), _metric()
I_STAR, O_STAR = _rand(1, D_IN, seed=3), _rand(1, D_OUT, seed=4)
CONCEPT = Concepts.of(I_STAR, I_STAR @ C_INV)


def _orthogonal(x: Tensor, i_stars: Tensor, c_inv: Tensor = C_INV) -> Tensor:
    """The part of rows that has no product with the concepts in the metric, by Gram-Schmidt."""
    basis: list[Tensor] = []
    for i in i_stars:
        for b in basis:
            i = i - (i @ c_inv @ b) * b
        basis.append(i / (i @ c_inv @ i).sqrt())
    for b in basis:
        x = x - (x @ c_inv @ b)[..., None] * b
    return x


def _slow(x: Tensor, i_stars: Tensor, o_stars: Tensor, beta: Tensor, tau: Tensor) -> Tensor:
    """Appendix B, row by row."""
    rows = []
    for e in x.reshape(-1, D_IN):
        h = W @ _orthogonal(e[None], i_stars)[0]
        for i, o, b, t in zip(i_stars, o_stars, beta, tau, strict=True):
            r = (e @ C_INV @ i) / (i @ C_INV @ i)
            h = h + 1 / (1 + torch.exp(-(r - b) / t)) * o
        rows.append(h)
    return torch.stack(rows).view(*x.shape[:-1], D_OUT)


def test_several_concepts_are_appendix_b() -> None:
    x, i, o = _rand(2, 7, D_IN, seed=5), _rand(3, D_IN, seed=6), _rand(3, D_OUT, seed=7)
    beta, tau = torch.tensor([0.4, 0.7, 1.1]), torch.tensor([0.1, 0.3, 0.15])
    found = gated_rank_one(x, W, i, o, C_INV, beta, tau)
    torch.testing.assert_close(found, _slow(x, i, o, beta.double(), tau.double()))


@pytest.mark.parametrize(
    ("beta", "tau", "share", "leak"),
    [
        (0.75, 0.1, 0.924142, 5.53e-4),
        (0.7, 0.15, 0.880797, 9.3e-3),
        (0.6, 0.15, 0.935031, 0.018),
        (0.4, 0.15, 0.982014, 0.065),
    ],
)
def test_gates_have_the_papers_values(beta: float, tau: float, share: float, leak: float) -> None:
    at_concept = gated_rank_one(I_STAR, W, I_STAR, O_STAR, C_INV, beta, tau)
    torch.testing.assert_close(at_concept, share * O_STAR, rtol=1e-6, atol=1e-6)
    e = _orthogonal(_rand(4, D_IN, seed=8), I_STAR)
    away = gated_rank_one(e, W, I_STAR, O_STAR, C_INV, beta, tau) - e @ W.T
    torch.testing.assert_close(away, (leak * O_STAR).expand(4, -1), rtol=2e-2, atol=0)


def test_a_hard_gate_is_the_exact_edit() -> None:
    e = _orthogonal(_rand(4, D_IN, seed=8), I_STAR)
    x = torch.cat([I_STAR, e, I_STAR + e, -I_STAR + e])
    found = gated_rank_one(x, W, I_STAR, O_STAR, C_INV, 0.5, 1e-6)
    expected = torch.cat([O_STAR, e @ W.T, O_STAR + e @ W.T, e @ W.T])
    torch.testing.assert_close(found, expected)


def test_key_locking_gives_the_key_of_the_super_category() -> None:
    """With the key of the super-category as output, queries meet the concept as they meet it."""
    category = _rand(1, D_IN, seed=9)
    z = _orthogonal(_rand(3, D_IN, seed=10), I_STAR)
    keys = gated_rank_one(I_STAR + z, W, I_STAR, category @ W.T, C_INV, 0.5, 1e-6)
    torch.testing.assert_close(keys, (category + z) @ W.T)


def test_without_gates_it_is_the_smallest_edit_of_the_weight() -> None:
    """ROME: the ratio in place of the gate is ``W + (o - W i) (C^-1 i)^T / E``."""
    x = _rand(4, D_IN, seed=11)
    ratio = x @ CONCEPT.ratios.T
    direction = (C_INV @ I_STAR[0]) / (I_STAR[0] @ C_INV @ I_STAR[0])
    edited = W + torch.outer(O_STAR[0] - W @ I_STAR[0], direction)
    torch.testing.assert_close(CONCEPT.remove(x) @ W.T + ratio @ O_STAR, x @ edited.T)


@pytest.mark.parametrize("scale", [1e-4, 3.0, 1e5])
def test_the_scale_of_c_does_not_matter(scale: float) -> None:
    x, i, o = _rand(4, D_IN, seed=12), _rand(2, D_IN, seed=13), _rand(2, D_OUT, seed=14)
    one, other = (gated_rank_one(x, W, i, o, c, 0.7, 0.15) for c in (C_INV, scale * C_INV))
    torch.testing.assert_close(one, other)


def test_the_order_of_concepts_does_not_matter() -> None:
    x, i, o = _rand(4, D_IN, seed=12), _rand(3, D_IN, seed=13), _rand(3, D_OUT, seed=14)
    beta, order = torch.tensor([0.5, 0.6, 0.7]), [2, 0, 1]
    one = gated_rank_one(x, W, i, o, C_INV, beta, 0.15)
    torch.testing.assert_close(
        one, gated_rank_one(x, W, i[order], o[order], C_INV, beta[order], 0.15)
    )


def test_orthogonal_concepts_add_up_and_others_do_not() -> None:
    x, o = _rand(4, D_IN, seed=12), _rand(2, D_OUT, seed=14)
    first = _rand(1, D_IN, seed=13)

    def added(second: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([first, second])
        plain = x @ W.T
        singles = [
            gated_rank_one(x, W, both[j : j + 1], o[j : j + 1], C_INV, 0.7, 0.15) - plain
            for j in range(2)
        ]
        return gated_rank_one(x, W, both, o, C_INV, 0.7, 0.15) - plain, singles[0] + singles[1]

    other = _rand(1, D_IN, seed=15)
    torch.testing.assert_close(*added(_orthogonal(other, first)))
    together, apart = added(other)
    assert float((together - apart).abs().max()) > 0.1


def test_a_closed_gate_still_removes_the_direction() -> None:
    x = _rand(4, D_IN, seed=12)
    found = gated_rank_one(x, W, I_STAR, O_STAR, C_INV, 1e6, 0.15)
    torch.testing.assert_close(found, _orthogonal(x, I_STAR) @ W.T)


def test_concepts_of_one_direction_share_it_and_warn() -> None:
    x, o = _rand(4, D_IN, seed=12), _rand(2, D_OUT, seed=14)
    twice = torch.cat([I_STAR, 2 * I_STAR])
    with pytest.warns(UserWarning, match="same direction"):
        found = gated_rank_one(x, W, twice, o, C_INV, 1e6, 0.15)
    torch.testing.assert_close(found, _orthogonal(x, I_STAR) @ W.T)


def test_output_grows_with_the_gate() -> None:
    x = _rand(9, D_IN, seed=16)
    sums = [float(CONCEPT.gates(x, beta, 0.15).sum()) for beta in (0.3, 0.5, 0.7, 0.9)]
    assert sums == sorted(sums, reverse=True) and sums[0] > sums[-1]


def test_the_gradient_of_an_output_is_its_gate() -> None:
    x, o = _rand(7, D_IN, seed=17), O_STAR.clone().requires_grad_()
    gated_rank_one(x, W, I_STAR, o, C_INV, 0.75, 0.1).sum().backward()
    gates = CONCEPT.gates(x, 0.75, 0.1).sum()
    assert o.grad is not None
    torch.testing.assert_close(o.grad, gates.expand(1, D_OUT))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_float32_gates(dtype: torch.dtype) -> None:
    x = (I_STAR * 1.0).to(dtype)
    i, o, w = (each.float() for each in (I_STAR, O_STAR, W))
    found = gated_rank_one(x, w.to(dtype), i, o, C_INV.float(), 0.75, 0.1)
    exact = gated_rank_one(x.float(), w.to(dtype).float(), i, o, C_INV.float(), 0.75, 0.1)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 0.0}, "tau must be above 0, found 0.0"),
        ({"tau": torch.tensor([0.1, -1.0])}, "tau must be above 0"),
        ({"c_inv": -C_INV}, "i_stars must have"),
        ({"i_stars": torch.zeros(1, D_IN)}, "i_stars must have"),
        ({"c_inv": C_INV[:-1]}, "c_inv"),
        ({"o_stars": O_STAR[:, :-1]}, "o_stars must be"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {"i_stars": I_STAR, "o_stars": O_STAR, "c_inv": C_INV, "beta": 0.7, "tau": 0.1}
    with pytest.raises(ValueError, match=message):
        gated_rank_one(_rand(2, D_IN), W, **settings | changes)  # type: ignore[arg-type]


def test_gate_formula_is_the_logistic_function() -> None:
    value = float(CONCEPT.gates(0.5 * I_STAR, 0.7, 0.2))
    assert value == pytest.approx(1 / (1 + math.exp(1.0)))
