"""The training command end to end, a few steps of every stage."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPModel, CLIPProcessor
from typer.testing import CliRunner

from apps.emblem.__main__ import app
from apps.emblem.score import Scorer


def emblem(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "apps.emblem", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("out")
    trial = ["--steps", "2", "--pictures", "64", "--run", str(run), "--out", str(out)]
    result = emblem("train", "all", *trial)
    assert result.returncode == 0, result.stderr
    return out


def test_plain_libraries_load_what_was_trained(trained: Path) -> None:
    prompt = ["a large red star on a blue background"]
    unet = StableDiffusionPipeline.from_pretrained(trained / "emblem-unet")
    assert unet(prompt, num_inference_steps=2).images[0].size == (64, 64)
    weak = UNet2DConditionModel.from_pretrained(trained / "emblem-unet-weak")
    assert weak.config.block_out_channels == unet.unet.config.block_out_channels
    dit = StableDiffusion3Pipeline.from_pretrained(trained / "emblem-dit")
    image = dit(prompt, num_inference_steps=2, max_sequence_length=4).images[0]
    assert image.size == (64, 64)
    processor = CLIPProcessor.from_pretrained(trained / "emblem-clip")
    inputs = processor(text=prompt, images=[image], return_tensors="pt", padding=True)
    assert CLIPModel.from_pretrained(trained / "emblem-clip")(**inputs).logits_per_image.isfinite()
    scorer = Scorer.from_pretrained(trained / "emblem-classifier")
    assert len(scorer.read(torch.zeros(1, 3, 64, 64)).scenes()) == 1


def test_weights_are_half_precision_and_both_pipelines_share_the_autoencoder(trained: Path) -> None:
    weights = [
        trained / name / "vae" / "diffusion_pytorch_model.safetensors"
        for name in ("emblem-unet", "emblem-dit")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    for path in trained.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                assert tensor.dtype == torch.float16 or not tensor.is_floating_point(), name


def test_no_path_of_the_machine_is_shipped(trained: Path) -> None:
    for path in trained.rglob("*.json"):
        assert str(trained.parent) not in path.read_text(encoding="utf-8"), path
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "unett"], "stage is 'unett'; expected all or any of vae, clip"),
        (["train", "unet", "--run", "nowhere"], "train vae` with the same --run first"),
        (["measure", "all", "--assets", "nowhere"], "emblem-classifier is no folder"),
        (["render", "--out", "x", "--n", "0"], "greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], says: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("diffusteer:")]
    assert len(lines) == 1 and says in lines[0]
    assert "Traceback" not in result.stderr
