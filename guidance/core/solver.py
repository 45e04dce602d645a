"""The noise level at which a step of the sampler ends, where one denoiser call decides it.

That holds for deterministic first order solvers ``x' = alpha' x0 + sigma' eps``: DDIM with eta 0
(Song et al. 2020, arXiv 2010.02502, eq. 12) and Euler, which is the same update.
"""

from __future__ import annotations

from typing import Any

from guidance.core.clock import level_of_flow, level_of_noise, level_of_signal

FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")

_REFUSED_SETTINGS = {
    "clip_sample": "it clips x0",
    "thresholding": "it clips x0",
    "stochastic_sampling": "it adds noise",
}


def next_noise_level(
    scheduler: Any, timestep: float, position: int, eta: float = 0.0
) -> tuple[float, float]:
    """Alpha and sigma to which a first order solver takes ``x = alpha x0 + sigma eps``.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.
        timestep: the time given to the model.
        position: index of that time in ``scheduler.timesteps``.
        eta: noise that the pipeline asks DDIM to add.

    Raises:
        ValueError: the scheduler is not a deterministic first order solver, or set up unlike one.
    """
    name = type(scheduler).__name__
    if name not in FIRST_ORDER:
        raise ValueError(
            f"the rule needs a deterministic first order scheduler, found {name}: expected one of "
            f"{', '.join(FIRST_ORDER)}; set it as pipe.scheduler"
        )
    for setting, reason in _REFUSED_SETTINGS.items():
        if scheduler.config.get(setting):
            raise ValueError(
                f"the rule needs the plain update of {name}, found {setting}=True: {reason}; set "
                f"pipe.scheduler = {name}.from_config(pipe.scheduler.config, {setting}=False)"
            )
    if name.startswith("Flow"):
        return level_of_flow(scheduler, position + 1)
    if name != "DDIMScheduler":
        return level_of_noise(float(scheduler.sigmas[position + 1]))
    if eta:
        raise ValueError(f"the rule needs {name} without added noise, found eta={eta:g}; set eta=0")
    # DDIM goes a fixed stride down, which need not be the next of its timesteps.
    after = round(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    signal = scheduler.alphas_cumprod[after] if after >= 0 else scheduler.final_alpha_cumprod
    return level_of_signal(float(signal))
