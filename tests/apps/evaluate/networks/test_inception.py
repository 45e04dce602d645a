"""Inception through torch-fidelity, whose network a small one of the same interface stands for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apps.evaluate.networks.extractors import load_extractor
from tests.apps.evaluate.tiny_networks import picture

URL = "https://example.org/weights-inception-2015-12-05-6726825d.pth"


class Network(nn.Module):
    """The constructor and call of FeatureExtractorInceptionV3 around one linear layer."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str
    ) -> None:
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.fc = nn.Linear(3, 2048)
        state = torch.load(feature_extractor_weights_path, weights_only=False)
        self.load_state_dict(state)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8
        assert x.ndim == 4
        return (self.fc((x.float().mean((2, 3)) - 128) / 128),)


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch-fidelity, installed."""
    package: Any = ModuleType("torch_fidelity")
    module: Any = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    module.URL_INCEPTION_V3 = URL
    package.feature_extractor_inceptionv3 = module
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2048)
    torch.save({"fc.weight": linear.weight.data, "fc.bias": linear.bias.data}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.usefixtures("fidelity")
def test_features_of_a_weights_file(weights: Path) -> None:
    extractor = load_extractor(f"inception:{weights}")
    images = [picture(seed, 50, 30) for seed in range(3)]
    found = extractor.features(torch.stack([extractor.prepare(image) for image in images]))
    state = torch.load(weights, weights_only=True)
    means = torch.stack(
        [torch.from_numpy(np.array(image)).float().mean((0, 1)) for image in images]
    )
    expected = (means - 128) / 128 @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(found, expected)
    assert (extractor.name, extractor.dimension) == ("inception:w.pth", 2048)


@pytest.mark.usefixtures("fidelity")
def test_pictures_go_in_as_they_are(weights: Path) -> None:
    extractor = load_extractor(f"inception:{weights}")
    image = picture(1, 50, 30)
    prepared = extractor.prepare(image)
    assert prepared.dtype == torch.uint8
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), np.asarray(image))
    grey = Image.new("L", (5, 4), 77)
    assert torch.equal(extractor.prepare(grey), torch.full((3, 4, 5), 77, dtype=torch.uint8))


@pytest.mark.usefixtures("fidelity")
def test_the_description_states_the_resize(weights: Path, tmp_path: Path) -> None:
    about = load_extractor(f"inception:{weights}").describe()
    assert about["size"] == {"height": 299, "width": 299}
    assert about["antialias"] is False
    assert "TensorFlow 1" in about["resampling"]
    state = torch.load(weights, weights_only=True)
    state["fc.bias"][0] += 1e-3
    torch.save(state, tmp_path / "other.pth")
    other = load_extractor(f"inception:{tmp_path / 'other.pth'}").describe()
    assert other["weights"] != about["weights"]


@pytest.mark.usefixtures("fidelity")
def test_the_weights_of_torch_fidelity_are_checked_and_used(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    kept = weights.parent / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"

    def download(url: str, **options: Any) -> None:
        asked.update(options, url=url)
        kept.parent.mkdir(parents=True)
        kept.write_bytes(weights.read_bytes())

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights.parent / "hub"))
    own = load_extractor("inception").describe()
    assert asked == {"url": URL, "check_hash": True, "weights_only": True}
    assert own["name"] == "inception"
    assert own["weights"] == load_extractor(f"inception:{weights}").describe()["weights"]


@pytest.mark.usefixtures("fidelity")
def test_no_connection_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, **options: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(ValueError, match=r"no route.*inception:weights-inception-2015-12-05"):
        load_extractor("inception")


class Evil:
    """Runs code as it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of a weights file was run",))


@pytest.mark.usefixtures("fidelity")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot load the Inception weights .* No such file"),
        ({"fc.weight": Evil()}, "cannot load the Inception weights .*; expected a state dict"),
        ({"fc.weight": torch.zeros(1)}, "'bad.pth' are not those of Inception; expected"),
        ([torch.zeros(1)], "'bad.pth' are not those of Inception; expected"),
    ],
)
def test_bad_weights(tmp_path: Path, content: Any, words: str) -> None:
    if content is not None:
        torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=words) as error:
        load_extractor(f"inception:{tmp_path / 'bad.pth'}")
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"pip install diffusteer\[inception\]"):
        load_extractor("inception")
