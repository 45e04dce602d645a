"""Personalization of diffusers pipelines."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalize.core.artifact import Artifact as Artifact
    from personalize.core.class_images import class_images as class_images
    from personalize.core.concepts import gate_table as gate_table
    from personalize.core.loading import Loaded as Loaded
    from personalize.core.loading import load as load
    from personalize.core.loading import loaded as loaded
    from personalize.core.loading import unload as unload
    from personalize.core.prompt_check import PromptCheck as PromptCheck
    from personalize.core.prompt_check import check_prompt as check_prompt
    from personalize.core.settings import DataSettings as DataSettings
    from personalize.core.settings import TrainSettings as TrainSettings
    from personalize.core.trainer import train as train
    from personalize.covariance import Covariance as Covariance
    from personalize.covariance import estimate_covariance as estimate_covariance
    from personalize.perfusion import Perfusion as Perfusion
    from personalize.textual_inversion import TextualInversion as TextualInversion
    from personalize.zoodip import ZOODiP as ZOODiP

# Imported when asked for: together they bring in torch, transformers and diffusers.
_HOMES = {
    "Artifact": "personalize.core.artifact",
    "Covariance": "personalize.covariance",
    "DataSettings": "personalize.core.settings",
    "Loaded": "personalize.core.loading",
    "Perfusion": "personalize.perfusion",
    "PromptCheck": "personalize.core.prompt_check",
    "TextualInversion": "personalize.textual_inversion",
    "TrainSettings": "personalize.core.settings",
    "ZOODiP": "personalize.zoodip",
    "check_prompt": "personalize.core.prompt_check",
    "class_images": "personalize.core.class_images",
    "estimate_covariance": "personalize.covariance",
    "gate_table": "personalize.core.concepts",
    "load": "personalize.core.loading",
    "loaded": "personalize.core.loading",
    "train": "personalize.core.trainer",
    "unload": "personalize.core.loading",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
