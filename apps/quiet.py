"""Silence of the libraries below, for programs that speak for themselves."""

from __future__ import annotations

import warnings


def quiet() -> None:
    """Keep messages and bars of the libraries below out of the terminal."""
    warnings.simplefilter("ignore")
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    from diffusers.utils import logging as of_diffusers

    of_diffusers.set_verbosity_error()
    of_diffusers.disable_progress_bar()
