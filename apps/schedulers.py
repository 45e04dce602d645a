"""Short names of schedulers, for noise predicting models and for flow matching models."""

from __future__ import annotations

import difflib
from typing import Any

DIFFUSION = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "kdpm2-a": "KDPM2AncestralDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
FLOW = {
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
}


def check_scheduler(name: str) -> str:
    """The name as the tables have it; raises ValueError when they do not."""
    key = name.strip().lower()
    if key not in DIFFUSION:
        close = difflib.get_close_matches(key, DIFFUSION, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown scheduler {name!r}{hint} (known: {', '.join(DIFFUSION)})")
    return key


def set_scheduler(pipe: Any, name: str) -> None:
    """Give a pipeline another scheduler, set up from the one it has.

    Raises:
        ValueError: the name is unknown, or that scheduler cannot drive this model.
    """
    key = check_scheduler(name)
    usable = _usable(pipe.scheduler)
    if key not in usable:
        raise ValueError(
            f"scheduler {name!r} cannot replace the {type(pipe.scheduler).__name__} of this model: "
            f"expected one of {', '.join(usable) or 'none, leave it as it is'}"
        )
    # Stable Diffusion models all skip the Runge-Kutta steps, but only their PNDM configs say so
    extra = {"skip_prk_steps": True} if key == "pndm" else {}
    pipe.scheduler = usable[key].from_config(pipe.scheduler.config, **extra)


def _usable(current: Any) -> dict[str, Any]:
    import diffusers

    if "FlowMatch" in type(current).__name__:
        return {key: getattr(diffusers, name) for key, name in FLOW.items()}
    if current.config.get("prediction_type") == "flow_prediction":
        return {}
    classes = {key: getattr(diffusers, name) for key, name in DIFFUSION.items()}
    return {key: cls for key, cls in classes.items() if cls in current.compatibles}
