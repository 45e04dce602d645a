"""Schedulers by short name, on models they can drive."""

from __future__ import annotations

from typing import Any

import pytest

from apps.schedulers import DIFFUSION, FLOW, check_scheduler, set_scheduler
from tests import tiny


@pytest.mark.parametrize("name", DIFFUSION)
def test_each_drives_a_diffusion_model(sd: Any, name: str) -> None:
    betas = sd.scheduler.config.beta_end
    set_scheduler(sd, name)
    assert type(sd.scheduler).__name__ == DIFFUSION[name]
    assert sd.scheduler.config.beta_end == betas
    assert tiny.sample(sd, steps=3).isfinite().all()


@pytest.mark.parametrize("name", FLOW)
def test_each_drives_a_flow_model(sd3: Any, name: str) -> None:
    set_scheduler(sd3, name)
    assert type(sd3.scheduler).__name__ == FLOW[name]
    assert tiny.sample(sd3, steps=3).isfinite().all()


def test_a_flow_model_refuses_others(sd3: Any) -> None:
    before = sd3.scheduler
    with pytest.raises(ValueError, match=r"'ddim' cannot replace .* expected one of euler, heun"):
        set_scheduler(sd3, "ddim")
    assert sd3.scheduler is before


def test_names_ignore_case_and_suggest() -> None:
    assert check_scheduler(" DDIM ") == "ddim"
    with pytest.raises(ValueError, match=r"did you mean 'unipc'\?"):
        check_scheduler("unpic")
