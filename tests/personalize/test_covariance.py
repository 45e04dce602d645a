"""The second moment of encodings against sums written out, and its file."""

from pathlib import Path

import pytest
import torch

from personalize.core.backbones import backbone_of
from personalize.covariance import Covariance, estimate_covariance, generic_captions
from tests.tiny import sd, sdxl

CAPTIONS = ("red fox", "grey cat", "a", "fox on ice", "the cat")


@pytest.mark.parametrize("make", [sd, sdxl])
@pytest.mark.parametrize("positions", ["all", "nonpad"])
def test_it_is_the_mean_over_captions_of_the_sum_over_positions(
    make: object, positions: str
) -> None:
    pipe = make()  # type: ignore[operator]
    rows = []
    for text in CAPTIONS:
        encoded = backbone_of(pipe).encode([text]).embeds[0].detach().double()
        tokens = len(pipe.tokenizer(text).input_ids)
        rows += list(encoded if positions == "all" else encoded[:tokens])
    plain = sum(torch.outer(e, e) for e in rows) / len(CAPTIONS)
    assert isinstance(plain, torch.Tensor)
    found = estimate_covariance(
        pipe, CAPTIONS, positions=positions, shrinkage=0.5, batch_size=2
    ).matrix
    expected = plain + 0.5 * plain.diagonal().mean() * torch.eye(len(plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_few_captions_are_shrunk_more() -> None:
    pipe = sd()
    few = estimate_covariance(pipe, CAPTIONS).matrix
    same = estimate_covariance(pipe, CAPTIONS, shrinkage=1e-3).matrix
    many = estimate_covariance(pipe, CAPTIONS * 64).matrix
    assert torch.equal(few, same)
    assert float(torch.linalg.eigvalsh(many)[0]) < 0.1 * float(torch.linalg.eigvalsh(few)[0])


def test_solving_is_the_inverse() -> None:
    covariance = estimate_covariance(sd(), CAPTIONS)
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    solved = covariance.solve(rows)
    torch.testing.assert_close(solved @ covariance.matrix, rows.double())


def test_a_file_gives_it_back(tmp_path: Path) -> None:
    pipe = sd()
    covariance = estimate_covariance(pipe, CAPTIONS, positions="nonpad", clip_skip=1)
    covariance.save(tmp_path / "c.safetensors")
    again = Covariance.load(tmp_path / "c.safetensors")
    assert torch.equal(again.matrix, covariance.matrix) and again.digest == covariance.digest
    assert (again.captions, again.positions, again.clip_skip) == (5, "nonpad", 1)
    again.check(pipe, clip_skip=1)
    again.check(pipe.to(dtype=torch.float16), clip_skip=1)


def test_another_text_encoder_is_refused() -> None:
    pipe, other = sd(), sd()
    with torch.no_grad():
        for weight in other.text_encoder.parameters():
            weight.mul_(1.5)
    covariance = estimate_covariance(pipe, CAPTIONS)
    for wrong, clip_skip, message in (
        (other, None, "other text encoders"),
        (sdxl(), None, "other text encoders"),
        (pipe, 1, "clip_skip=None, found clip_skip=1"),
    ):
        with pytest.raises(ValueError, match=message):
            covariance.check(wrong, clip_skip)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": []}, "at least one text, found none"),
        ({"positions": "some"}, "positions must be one of all, nonpad, found 'some'"),
        ({"shrinkage": -1.0}, "shrinkage must be"),
        ({"shrinkage": float("nan")}, "shrinkage must be"),
        ({"captions": ["a"], "shrinkage": 0.0}, "positive definite.*more captions"),
    ],
)
def test_what_cannot_be_estimated_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_covariance(sd(), **{"captions": CAPTIONS} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"no file of ours", b"\x80\x04N."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.safetensors' must be a covariance"):
        Covariance.load(path)
    with pytest.raises(ValueError, match="must be a covariance"):
        Covariance.load(tmp_path / "missing.safetensors")


def test_captions_come_along_and_differ() -> None:
    captions = generic_captions()
    assert len(captions) > 2000 and len(set(captions)) == len(captions)
