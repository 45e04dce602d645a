"""Choosing by prompt: closed forms, direct inverses, bandits that cannot learn, files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from guidance import CFG, RBF, Polynomial, PromptRouter, RandomFourier, exploration
from guidance.arm_memory import History, Moments
from guidance.kernel_bandit import Estimate, fourier, frequencies, sherman_morrison

KERNELS = [RBF(0.7), Polynomial(3, 2, 1), Polynomial(1, 1, 0)]
LINEAR = Polynomial(degree=1, gain=1, offset=0)
DOCS = Path(__file__).parents[2] / "docs" / "guidance.md"


def directions(count: int, dimension: int = 6, seed: int = 0) -> Tensor:
    """Contexts of norm 1."""
    generator = torch.Generator().manual_seed(seed)
    contexts = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(contexts, dim=1)


def filled(kernel: Any, contexts: Tensor, rewards: Tensor, alpha: float = 1.0) -> History:
    history = History.empty(kernel, alpha, None, contexts.shape[1])
    for context, reward in zip(contexts, rewards.tolist(), strict=True):
        history = history.observed(context, reward)
    return history


def direct(kernel: Any, contexts: Tensor, rewards: Tensor, query: Tensor, alpha: float) -> Estimate:
    """The equations of the paper with loops over the kernel and a plain inverse."""
    rows = [[one(kernel, a, b) for b in contexts] for a in contexts]
    gram = torch.tensor(rows, dtype=torch.float64)
    inverse = torch.linalg.inv(gram + alpha * torch.eye(len(gram), dtype=torch.float64))
    k = torch.tensor([one(kernel, context, query) for context in contexts], dtype=torch.float64)
    variance = (one(kernel, query, query) - k @ inverse @ k).item()
    return Estimate((k @ inverse @ rewards).item(), sqrt(variance) / sqrt(alpha))


def one(kernel: Any, x: Tensor, y: Tensor) -> float:
    """A kernel of two contexts in plain numbers."""
    if isinstance(kernel, RBF):
        squares = [(a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        return exp(-sum(squares) / (2 * kernel.width**2))
    product = sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return float((kernel.gain * product + kernel.offset) ** kernel.degree)


def same(found: Estimate, expected: Estimate, tolerance: float = 1e-8) -> None:
    for name, value in vars(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_one_observation_in_closed_form(alpha: float) -> None:
    context = directions(1)
    history = filled(RBF(0.5), context, torch.tensor([0.6], dtype=torch.float64), alpha)
    same(history.estimate(context[0]), Estimate(0.6 / (1 + alpha), 1 / sqrt(1 + alpha)), 1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_far_away_nothing_is_known(alpha: float) -> None:
    context = directions(1)
    history = filled(RBF(0.1), context, torch.tensor([0.6], dtype=torch.float64), alpha)
    same(history.estimate(-context[0]), Estimate(0.0, 1 / sqrt(alpha)), 1e-12)
    empty = History.empty(RBF(0.1), alpha, None, 6)
    same(empty.estimate(context[0]), Estimate(0.0, 1 / sqrt(alpha)), 1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_linear_kernel_is_ridge_regression(alpha: float) -> None:
    x, query = directions(20), directions(1, seed=1)[0]
    rewards = torch.linspace(-1, 1, 20, dtype=torch.float64)
    inverse = torch.linalg.inv(x.T @ x + alpha * torch.eye(6, dtype=torch.float64))
    expected = Estimate((query @ inverse @ x.T @ rewards).item(), sqrt(query @ inverse @ query))
    same(filled(LINEAR, x, rewards, alpha).estimate(query), expected)
    moments = Moments.empty(alpha, 6)
    for context, reward in zip(x, rewards.tolist(), strict=True):
        moments = moments.observed(context, reward)
    same(moments.estimate(query), expected)


def test_repeated_observations_make_sure() -> None:
    context = directions(1)
    for kernel in (RBF(0.5), LINEAR):
        for count in (1, 2, 7, 50):
            history = filled(
                kernel, context.repeat(count, 1), torch.full((count,), 0.6, dtype=torch.float64)
            )
            expected = Estimate(0.6 * count / (count + 1), 1 / sqrt(1 + count))
            same(history.estimate(context[0]), expected)


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_fifty_updates_equal_the_direct_inverse(kernel: Any, alpha: float) -> None:
    contexts, queries = directions(50), directions(3, seed=1)
    contexts[30] = contexts[3]
    rewards = (4 * contexts[:, 0]).sin()
    history = filled(kernel, contexts, rewards, alpha)
    for query in [*queries, contexts[3]]:
        same(history.estimate(query), direct(kernel, contexts, rewards, query, alpha))
    gram = kernel(contexts, contexts) + alpha * torch.eye(50, dtype=torch.float64)
    torch.testing.assert_close(history.factor @ history.factor.T, gram, rtol=0, atol=1e-9)
    assert torch.equal(history.factor, history.factor.tril())


def test_rounding_of_copies_is_bounded() -> None:
    """With a tiny ridge, corners and variances of copies are rounding alone, of either sign."""
    contexts = directions(12).repeat(2, 1)
    history = filled(RBF(3.0), contexts, torch.zeros(24, dtype=torch.float64), 1e-17)
    assert history.factor.diagonal().min() >= sqrt(1e-17) * (1 - 1e-9)
    assert [history.estimate(context).deviation for context in contexts[:4]] == [0.0] * 4


def test_history_keeps_the_latest() -> None:
    contexts, query = directions(20), directions(1, seed=1)[0]
    rewards = (4 * contexts[:, 0]).sin()
    history = History.empty(RBF(0.7), 0.5, 8, 6)
    for count, (context, reward) in enumerate(zip(contexts, rewards.tolist(), strict=True), 1):
        history = history.observed(context, reward)
        kept = slice(max(0, count - 8), count)
        assert torch.equal(history.contexts, contexts[kept])
        expected = direct(RBF(0.7), contexts[kept], rewards[kept], query, 0.5)
        same(history.estimate(query), expected)


def test_random_features_approach_the_kernel() -> None:
    """The error of the Gram matrix falls with the square root of the number of features."""
    contexts, generator = directions(40), torch.Generator().manual_seed(0)
    exact = RBF(0.6)(contexts, contexts)
    sizes, errors = (50, 200, 800, 3200), []
    for size in sizes:
        square = 0.0
        for _ in range(8):
            phi = fourier(contexts, frequencies(size, 6, 0.6, generator))
            assert phi.shape == (40, 2 * size)
            torch.testing.assert_close(phi.square().sum(1), torch.ones(40, dtype=torch.float64))
            square += (phi @ phi.T - exact).square().mean().item() / 8
        errors.append(sqrt(square))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.56 < slope < -0.44
    assert errors[-1] < 0.015


def test_random_features_equal_the_kernel_of_their_products() -> None:
    w = frequencies(12, 6, 0.5, torch.Generator().manual_seed(0))
    phi, query = fourier(directions(40), w), fourier(directions(1, seed=1)[0], w)
    rewards = torch.linspace(-1, 1, 40, dtype=torch.float64)
    moments = Moments.empty(0.3, 24)
    for row, reward in zip(phi, rewards.tolist(), strict=True):
        moments = moments.observed(row, reward)
    same(moments.estimate(query), direct(LINEAR, phi, rewards, query, 0.3))


def test_sherman_morrison_equals_the_direct_inverse() -> None:
    rows = directions(1000, 16)
    inverse = torch.eye(16, dtype=torch.float64) / 0.1
    for row in rows:
        inverse = sherman_morrison(inverse, row)
    expected = torch.linalg.inv(rows.T @ rows + 0.1 * torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(inverse, expected, rtol=0, atol=1e-10)


def test_exploration_of_the_theory() -> None:
    assert exploration(arms=5, rounds=5000) == pytest.approx(5.2565, abs=1e-4)
    assert exploration(5) == pytest.approx(sqrt(2 * log(2 * 5 / 0.05)))
    assert exploration(2, delta=0.5) == pytest.approx(sqrt(2 * log(8)))


def embed(prompts: Sequence[str]) -> Tensor:
    """Two clusters: words that begin with c, and others, each with a place of its own."""
    rows = []
    for prompt in prompts:
        seed = sum(ord(letter) * 7**place for place, letter in enumerate(prompt))
        own = torch.randn(16, generator=torch.Generator().manual_seed(seed))
        centre = torch.zeros(16)
        centre[0 if prompt.startswith("c") else 1] = 10.0
        rows.append(3 * (centre + own))
    return torch.stack(rows)


def prompts(count: int, seed: int) -> list[str]:
    """Of either cluster by the toss of a coin, so that one says nothing of the next."""
    coins = torch.randint(2, (count,), generator=torch.Generator().manual_seed(50 + seed)).tolist()
    return [f"{'car' if coin else 'dog'} {index}" for index, coin in enumerate(coins)]


def best_for(prompt: str) -> str:
    return "a" if prompt.startswith("c") else "b"


def play(select: Callable[[str], str], update: Callable[[str, str, float], None], seed: int) -> Any:
    """Share of best choices in 200 rounds: scores 0.8 for the best arm and 0.2, with noise."""
    noise, hits = torch.Generator().manual_seed(100 + seed), 0
    for prompt in prompts(200, seed):
        arm = select(prompt)
        hits += arm == best_for(prompt)
        score = 0.8 if arm == best_for(prompt) else 0.2
        update(prompt, arm, score + 0.1 * (torch.rand((), generator=noise).item() - 0.5))
    return hits / 200


@pytest.mark.parametrize(
    ("kernel", "eta"),
    [(RBF(), 1), (Polynomial(), 0.3), (LINEAR, 1), (RandomFourier(1, 100), 1)],
    ids=str,
)
def test_two_clusters_are_told_apart(kernel: Any, eta: float) -> None:
    for seed in range(3):
        router = PromptRouter(["a", "b"], embed, kernel=kernel, eta=eta)
        assert play(router.select, router.update, seed) > 0.9


def test_bandits_blind_to_prompts_or_arms_stay_at_half() -> None:
    """UCB without a context, and a kernel UCB whose arms share one regression."""

    class ContextFree:
        def __init__(self, seed: int) -> None:
            self.scores: dict[str, list[float]] = {"a": [], "b": []}

        def select(self, prompt: str) -> str:
            return max(self.scores, key=lambda arm: self.bound(self.scores[arm]))

        def bound(self, scores: list[float]) -> float:
            return sum(scores) / len(scores) + 1 / sqrt(len(scores)) if scores else 9.0

        def update(self, prompt: str, arm: str, reward: float) -> None:
            self.scores[arm].append(reward)

    class SharedWeights:
        def __init__(self, seed: int) -> None:
            self.history = History.empty(RBF(), 1.0, None, 16)
            self.generator = torch.Generator().manual_seed(900 + seed)

        def context(self, prompt: str) -> Tensor:
            return torch.nn.functional.normalize(embed([prompt]).double(), dim=1)[0]

        def select(self, prompt: str) -> str:
            bounds = [self.history.estimate(self.context(prompt)) for _ in "ab"]
            assert bounds[0] == bounds[1]
            return "ab"[int(torch.randint(2, (), generator=self.generator))]

        def update(self, prompt: str, arm: str, reward: float) -> None:
            self.history = self.history.observed(self.context(prompt), reward)

    for bandit in (ContextFree, SharedWeights):
        shares = []
        for seed in range(4):
            player: Any = bandit(seed)
            shares.append(play(player.select, player.update, seed))
        assert sum(shares) / 4 == pytest.approx(0.5, abs=0.05)


def test_choice_is_the_largest_bound() -> None:
    for eta in (0.0, 1.0, 6.0):
        router = PromptRouter(["a", "b"], embed, kernel=RBF(0.7), alpha=0.5, eta=eta)
        for index, arm in enumerate("abbbb"):
            router.update(f"car {index}", arm, 0.5 if arm == "a" else 0.52)
        found = router.estimates("car 9")
        contexts = torch.nn.functional.normalize(
            embed([f"car {index}" for index in range(5)] + ["car 9"]).double(), dim=1
        )
        rewards = torch.full((4,), 0.52, dtype=torch.float64)
        same(found["b"], direct(RBF(0.7), contexts[1:5], rewards, contexts[5], 0.5))
        same(found["a"], direct(RBF(0.7), contexts[:1], rewards[:1] - 0.02, contexts[5], 0.5))
        bounds = {arm: each.mean + eta * each.deviation for arm, each in found.items()}
        assert router.select("car 9") == max(bounds, key=lambda arm: bounds[arm])
        assert router.select("car 9") == ("a" if eta else "b")


def test_arms_never_taken_come_first_at_random() -> None:
    firsts = set()
    for seed in range(20):
        router = PromptRouter(["x", "y", "z"], embed, seed=seed)
        order = []
        for index in range(3):
            assert list(router.estimates("dog")) == [arm for arm in "xyz" if arm in order]
            order.append(router.select(f"dog {index}"))
            router.update(f"dog {index}", order[-1], 1.0)
        assert sorted(order) == ["x", "y", "z"]
        firsts.add(order[0])
        again = PromptRouter(["x", "y", "z"], embed, seed=seed)
        assert again.select("dog 0") == order[0]
    assert firsts == {"x", "y", "z"}


def test_ties_are_drawn() -> None:
    router = PromptRouter(["x", "y", "z"], embed, seed=3)
    for arm, reward in (("x", 0.5), ("y", 0.5), ("z", -1.0)):
        router.update("dog", arm, reward)
    drawn = [router.select("dog") for _ in range(200)]
    assert 70 < drawn.count("x") < 130
    assert drawn.count("x") + drawn.count("y") == 200


def test_new_arm_is_tried_and_learned() -> None:
    router = PromptRouter([1.0, 2.0], embed, eta=0.1)
    for index in range(10):
        router.update(f"car {index}", 1.0, 0.1)
        router.update(f"car {index}", 2.0, 0.2)
    router.add_arm(4.0)
    assert router.arms == (1.0, 2.0, 4.0)
    assert router.select("car 50") == 4.0
    router.update("car 50", 4.0, 0.9)
    assert router.select("car 51") == 4.0


def test_length_of_embeddings_does_not_matter() -> None:
    def long(texts: Sequence[str]) -> Any:
        return 1000 * embed(texts).numpy()

    for kernel in (RBF(), RandomFourier()):
        plain, other = (PromptRouter(["a", "b"], each, kernel=kernel) for each in (embed, long))
        for router in (plain, other):
            router.update("car 1", "a", 0.3)
        same(other.estimates("car 2")["a"], plain.estimates("car 2")["a"], 1e-6)


def test_embeddings_may_want_gradients() -> None:
    scale = torch.ones((), requires_grad=True)
    router = PromptRouter([CFG(2.0), CFG(6.0)], lambda texts: embed(texts) * scale)
    router.update("car", CFG(2.0), 0.3)
    assert router.select("car") == CFG(6.0)


@pytest.mark.parametrize(
    ("kernel", "limit"),
    [(RBF(0.5), None), (RBF(0.5), 5), (Polynomial(2, 3.0, 0.5), 9), (RandomFourier(0.5, 30), None)],
    ids=str,
)
def test_saved_router_continues_exactly(kernel: Any, limit: int | None, tmp_path: Path) -> None:
    arms: list[Any] = ["a", "b", 3, 4.5]
    settings: dict[str, Any] = {"alpha": 0.3, "eta": 0.7, "max_history": limit, "seed": 5}
    router = PromptRouter(arms, embed, kernel=kernel, **settings)
    file = tmp_path / "router.safetensors"
    for cut in (0, 2, 20):
        for index in range(cut):
            arm = router.select(f"car {index}")
            router.update(f"car {index}", arm, 0.5 if arm == "a" else 0.4)
        router.save(file)
        loaded = PromptRouter.load(file, embed)
        assert loaded.arms == router.arms
        assert loaded.kernel == kernel
        assert [type(arm) for arm in loaded.arms] == [str, str, int, float]
        for index in range(25):
            prompt = f"dog {index}"
            arm = router.select(prompt)
            assert loaded.select(prompt) == arm
            for each in (router, loaded):
                each.update(prompt, arm, 0.1 * (index % 3))
            assert loaded.estimates(prompt) == router.estimates(prompt)
    assert [path.name for path in tmp_path.iterdir()] == ["router.safetensors"]


def test_files_hold_tensors_and_json(tmp_path: Path) -> None:
    router = PromptRouter(["a", "b"], embed)
    router.update("car", "b", 0.5)
    router.save(tmp_path / "router.safetensors")
    with safe_open(tmp_path / "router.safetensors", "pt") as file:
        assert set(file.keys()) == {"generator", "1.contexts", "1.rewards", "1.factor"}
        settings = json.loads(file.metadata()["PromptRouter"])
    assert settings["arms"] == ["a", "b"]
    assert settings["kernel"] == {"name": "RBF", "width": 1.0}
    rules = PromptRouter([CFG(2.0)], embed)
    with pytest.raises(TypeError, match=r"texts or numbers to be saved, found CFG\(scale=2.0\); n"):
        rules.save(tmp_path / "rules.safetensors")
    assert not (tmp_path / "rules.safetensors").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"1.factor": torch.zeros(2, 2)}, "do not fit"),
        ({"1.contexts": torch.zeros(1, 3)}, "do not fit"),
        ({"1.rewards": None}, "rewards"),
        ({"1.contexts": None}, "do not fit"),
        ({"1.factor": torch.full((1, 1), float("nan"))}, "are not finite"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, "RNG state"),
        ({"generator": None}, "generator"),
    ],
)
def test_damaged_files_are_refused(damage: Any, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "router.safetensors"
    router = PromptRouter(["a", "b"], embed)
    router.update("car", "b", 0.5)
    router.save(file)
    with safe_open(file, "pt") as saved:
        metadata = saved.metadata()
        tensors = {name: saved.get_tensor(name) for name in saved.keys()} | damage  # noqa: SIM118
    save_file({name: value for name, value in tensors.items() if value is not None}, file, metadata)
    with pytest.raises(ValueError, match=f"must be a file written by save, but.*{reason}"):
        PromptRouter.load(file, embed)


def test_damaged_random_features_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "router.safetensors"
    router = PromptRouter(["a"], embed, kernel=RandomFourier(1.0, 4))
    router.update("car", "a", 0.5)
    router.save(file)
    with safe_open(file, "pt") as saved:
        metadata = saved.metadata()
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    for name in ("frequencies", "0.inverse", "0.target"):
        save_file(tensors | {name: tensors[name][:-1].clone()}, file, metadata)
        with pytest.raises(ValueError, match="do not fit"):
            PromptRouter.load(file, embed)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    with pytest.raises(ValueError, match=r"other.safetensors' must be a file written by save, but"):
        PromptRouter.load(file, embed)
    file.write_text("no tensors")
    with pytest.raises(ValueError, match="must be a file written by save, but"):
        PromptRouter.load(file, embed)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="but it holds something else"):
        PromptRouter.load(file, embed)
    save_file({"x": torch.zeros(1)}, file, {"PromptRouter": '{"kernel": {"name": "Sinc"}}'})
    with pytest.raises(ValueError, match="but 'Sinc'"):
        PromptRouter.load(file, embed)


def test_loaded_router_wants_its_embedder(tmp_path: Path) -> None:
    router = PromptRouter(["a"], embed)
    router.update("car", "a", 0.5)
    router.save(tmp_path / "router.safetensors")
    loaded = PromptRouter.load(tmp_path / "router.safetensors", lambda texts: torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"a finite vector \(1, 16\).*found \(1, 4\) of norm 2"):
        loaded.select("car")


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), 1.01, -1.01, 26.5])
def test_rewards_out_of_range_name_prompt_and_arm(reward: float) -> None:
    router = PromptRouter(["a", "b"], embed)
    with pytest.raises(
        ValueError,
        match=r"reward of arm 'b' for prompt 'car 1' must be a finite number from -1 to 1, found",
    ):
        router.update("car 1", "b", reward)
    assert router.estimates("car 1") == {}
    with pytest.raises(TypeError, match="reward of arm 'b' for prompt 'car 1' must be a finite"):
        router.update("car 1", "b", "good")  # type: ignore[arg-type]
    edges: list[Any] = [-1, 1.0, np.float32(0.5)]
    for edge in edges:
        router.update("car 1", "b", edge)


def test_unknown_arms_name_the_nearest() -> None:
    router = PromptRouter(["CFG(2)", "CFG(6) + Rescale(0.7)"], embed)
    with pytest.raises(ValueError, match=r"no arm 'CFG\(3\)'; did you mean 'CFG\(2\)'\? \(expec"):
        router.update("car", "CFG(3)", 0.5)
    with pytest.raises(ValueError, match=r"no arm \[1\] \(expected one of 'CFG\(2\)', 'CFG\(6\)"):
        router.update("car", [1], 0.5)  # type: ignore[arg-type]
    scales = PromptRouter([2.5, 7.5], embed)
    with pytest.raises(ValueError, match=r"no arm 7.0; did you mean 7.5\?"):
        scales.update("car", 7.0, 0.5)


@pytest.mark.parametrize(
    "vectors",
    [
        torch.zeros(1, 4),
        torch.full((1, 4), float("nan")),
        torch.full((1, 4), float("inf")),
        torch.ones(4),
        torch.ones(2, 4),
        torch.ones(1, 2, 2),
        torch.tensor(1.0),
        torch.ones(1, 0),
    ],
)
def test_bad_embeddings_are_refused(vectors: Tensor) -> None:
    router = PromptRouter(["a"], lambda texts: vectors)
    found = re.escape(str(tuple(vectors.shape)))
    with pytest.raises(ValueError, match=rf"vector \(1, D\) other than zero.*{found}.*'car'"):
        router.select("car")


def test_embedder_may_not_change_its_dimension() -> None:
    router = PromptRouter(["a"], lambda texts: torch.ones(1, len(texts[0])))
    router.select("car")
    with pytest.raises(ValueError, match=r"\(1, 3\) other than zero.*found \(1, 5\)"):
        router.update("a car", "a", 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": "ab"}, "arms must be several names, found the text 'ab'"),
        ({"arms": []}, "arms must hold at least one name, found none"),
        ({"arms": ["a", "b", "a"]}, "arms must differ, found 'a' twice"),
        ({"arms": [["a"]]}, r"an arm must be hashable, a text or a number, found \['a'\]"),
        ({"embed": "clip"}, "embed must be callable, found 'clip'"),
        ({"kernel": "rbf"}, "kernel must be one of RBF, Polynomial, RandomFourier, found 'rbf'"),
        ({"alpha": 0}, "alpha must be above 0, found 0"),
        ({"alpha": -1}, "alpha must be a finite number from 0 up, found -1"),
        ({"eta": float("nan")}, "eta must be a finite number from 0 up, found nan"),
        ({"max_history": 0}, "max_history must be a finite number from 1 up, found 0"),
        ({"max_history": 2.5}, "max_history must be whole, found 2.5"),
        ({"max_history": 9, "kernel": RandomFourier()}, "max_history needs a kernel that keeps"),
        ({"seed": -1}, "seed must be a finite number from 0 up, found -1"),
    ],
)
def test_bad_settings_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^PromptRouter: {message}") as caught:
        PromptRouter(**dict[str, Any](arms=["a", "b"], embed=embed) | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RBF, (0,), "width must be above 0, found 0"),
        (RBF, (-1,), "width must be a finite number from 0 up, found -1"),
        (RandomFourier, (0,), "width must be above 0, found 0"),
        (RandomFourier, (1, 0), "features must be a finite number from 1 up, found 0"),
        (RandomFourier, (1, 2.5), "features must be whole, found 2.5"),
        (Polynomial, (0,), "degree must be a finite number from 1 up, found 0"),
        (Polynomial, (2.5,), "degree must be whole, found 2.5"),
        (Polynomial, (3, 0), "gain must be above 0, found 0"),
        (Polynomial, (3, 1, -1), "offset must be a finite number from 0 up, found -1"),
    ],
)
def test_kernels_that_are_none_are_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {message}"):
        kind(*settings)


def test_add_arm_refuses_known_arms() -> None:
    router = PromptRouter(["a"], embed)
    with pytest.raises(ValueError, match="arms must differ, found 'a' twice"):
        router.add_arm("a")


def test_the_example_of_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Choosing by prompt")[2]
    code = section.partition("```py\n")[2].partition("```")[0]
    monkeypatch.chdir(DOCS.parents[1])
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(names["router"].estimates("a red star")) == {"CFG(1)", "CFG(4)"}
