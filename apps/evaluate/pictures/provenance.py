"""Where a result comes from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    return {name: version(name) for name in packages}


def provenance(device: torch.device, processes: int) -> dict[str, Any]:
    """What made a result, on what, without the machine's name."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": versions("diffusteer", "torch", "transformers", "accelerate", "numpy", "pillow")
        | {"python": platform.python_version()},
    }
