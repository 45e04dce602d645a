"""Loading pipelines, and what is said where that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from apps.pipelines import (
    cut_tokens,
    find_model,
    load_pipeline,
    model_name,
    pick_device,
    pick_dtype,
)


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_loads_what_save_pretrained_wrote(models: Path, name: str) -> None:
    pipe = load_pipeline(str(models / name), device="cpu", dtype="bfloat16")
    assert pipe.dtype == torch.bfloat16


def test_a_pipeline_without_prompts_is_refused(models: Path) -> None:
    with pytest.raises(ValueError, match="DiTPipeline takes no prompt"):
        load_pipeline(str(models / "dit"), device="cpu")


def test_damaged_weights_are_refused_in_one_line(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(models / "sd", folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="damaged'; check that its files are complete") as error:
        load_pipeline(str(folder), device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "model", ["/no/such", "./none", "~/none", "a/b/c", "emblem", "owner/", "..", "a\\b"]
)
def test_what_is_no_model(model: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        find_model(model)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ValueError, match="is a file: expected a pipeline folder"):
        find_model(str(file))


def test_hub_ids_pass_and_a_hub_out_of_reach_is_explained() -> None:
    assert find_model("owner/name") == "owner/name"
    with pytest.raises(ValueError, match="'owner/name'; check the id and the connection"):
        load_pipeline("owner/name", device="cpu")


def test_names_hold_no_path_of_the_machine(models: Path) -> None:
    assert model_name(str(models / "sd")) == "sd"
    assert model_name("owner/name") == "owner/name"


def test_device_and_dtype() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(ValueError, match="no device 'gpu' here: expected one of auto"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="unknown dtype 'half'"):
        pick_dtype("half", torch.device("cpu"))


def test_tokens_beyond_the_limit_are_counted(models: Path) -> None:
    pipe = load_pipeline(str(models / "sd3"), device="cpu")
    assert cut_tokens(pipe, "a" * 14) == 0  # 16 tokens with start and end
    assert cut_tokens(pipe, "a" * 17) == 3
