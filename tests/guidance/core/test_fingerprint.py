"""Fingerprints: the same in every precision, and of no other network."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from guidance.core.fingerprint import fingerprint, from_text, matches, to_text
from tests import tiny


def test_one_network_in_every_precision() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(9, 9) for _ in range(200)))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.mul_(10.0 ** (number % 9 - 6))  # down to where float16 is coarse
    full = fingerprint(model)
    for dtype in (torch.float16, torch.bfloat16):
        half = fingerprint(copy.deepcopy(model).to(dtype))
        assert matches(full, half)
        assert matches(half, full)
    assert matches(full, fingerprint(model.to("meta")))


def test_other_networks() -> None:
    model = tiny.sd().unet
    known = fingerprint(model)
    assert matches(known, fingerprint(tiny.sd().unet))
    assert len(from_text(known.split(":")[1])) <= 128
    assert not matches(known, fingerprint(tiny.sdxl().unet))
    assert not matches(known, fingerprint(torch.nn.Sequential(model)))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 0.02 * torch.randn_like(weight))
    assert not matches(known, fingerprint(model))


def test_weights_that_do_not_count() -> None:
    vae = tiny.sd().vae
    known = fingerprint(vae, lambda name: not name.startswith("decoder."))
    with torch.no_grad():
        vae.decoder.conv_in.weight.add_(1)
    assert matches(known, fingerprint(vae, lambda name: not name.startswith("decoder.")))
    assert known != fingerprint(vae)


def test_numbers_as_text() -> None:
    values = [0.0, 1.0, -2.5, 1e-30, 3e38, math.inf]
    assert to_text(torch.tensor([1.0, -2.5])) == "3f80c020"
    close = torch.tensor(values).bfloat16().float()
    assert torch.equal(from_text(to_text(torch.tensor(values))), close)
    for bad in ("3f8", "3F80", "zzzz"):
        with pytest.raises(ValueError, match="expected hexadecimal digits by four, found"):
            from_text(bad)
