"""Inception: the features of published FID and KID numbers.

"Rethinking the Inception Architecture for Computer Vision", Szegedy et al. 2015, arXiv 1512.00567,
with the weights and the TensorFlow conventions of Heusel et al. 2017, arXiv 1706.08500, as
torch-fidelity carries them to PyTorch.
"""

from __future__ import annotations

import pickle
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apps.evaluate.networks.pretrained import exact, weights_hash


class InceptionExtractor:
    """Features (B, 2048) of the last pooling of ``inception-v3-compat``.

    Pictures go in as they are: the network itself resizes them to 299 x 299, bilinearly as
    TensorFlow 1 did and without antialiasing, so batches are of pictures of one size.

    Args:
        weights: file with the state dict; empty for torch-fidelity's own, downloaded once.
        device: where it computes.

    Raises:
        ValueError: torch-fidelity is not installed, or the weights cannot be had or do not fit.
    """

    kind = "inception"
    dimension = 2048

    def __init__(self, weights: str, device: torch.device) -> None:
        self.name = f"inception:{Path(weights).name}" if weights else "inception"
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as fidelity
        except ImportError as error:
            raise ValueError(
                f"inception needs torch-fidelity ({error}); pip install diffusteer[inception]"
            ) from error
        file = _checked(weights) if weights else _downloaded(fidelity.URL_INCEPTION_V3)
        try:
            network = fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
            )
        except (RuntimeError, TypeError) as error:
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise ValueError(
                f"weights {file.name!r} are not those of Inception; expected the state dict of "
                f"pt_inception-2015-12-05 ({reason})"
            ) from error
        self._weights = weights_hash(network)
        self._network = network.to(device)
        self._device = device

    def prepare(self, image: Image.Image) -> Tensor:
        """A picture as it is, uint8 (3, H, W)."""
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    @exact()
    def features(self, batch: Tensor) -> Tensor:
        """Features (B, 2048) of uint8 pictures (B, 3, H, W)."""
        (features,) = self._network(batch.to(self._device))
        return features.cpu()

    def describe(self) -> dict[str, Any]:
        """What decides the features; mean and std are those of values in [0, 1]."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dimension": self.dimension,
            "network": "FeatureExtractorInceptionV3",
            "weights": self._weights,
            "size": {"height": 299, "width": 299},
            "crop": None,
            "resampling": "bilinear of TensorFlow 1, inside the network",
            "antialias": False,
            "mean": [128 / 255] * 3,
            "std": [128 / 255] * 3,
            "dtype": "float32",
        }


def _downloaded(url: str) -> Path:
    """torch-fidelity's weights where torch.hub keeps them, checked by the hash in their name."""
    name = Path(urlparse(url).path).name
    try:
        with redirect_stdout(sys.stderr):
            torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"cannot download the Inception weights from {url} ({error}); check the connection, or "
            f"give the file as inception:{name}"
        ) from error
    return Path(torch.hub.get_dir(), "checkpoints", name)


def _checked(weights: str) -> Path:
    """A file that holds tensors and no code, which torch-fidelity itself does not check."""
    path = Path(weights).expanduser()
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ValueError(
            f"cannot load the Inception weights {weights!r} ({reason}); expected a state dict that "
            "torch.save wrote"
        ) from error
    return path
