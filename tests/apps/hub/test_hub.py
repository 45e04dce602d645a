"""``diffusteer push``: files that belong together, a card that teaches, nothing sent in a trial."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.hub.card import card
from apps.hub.push import push
from apps.shipped import shipped
from guidance import HeadSet
from personalize.core.artifact import Artifact

BASE = {"diffusteer.base_model": "owner/model", "diffusteer.steps": "300"}


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["push", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    """A textual inversion for two text encoders, among other things that training leaves."""
    tensors = {"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)}
    folder = tmp_path / "cat"
    Artifact("textual-inversion", tensors, {"token": "<cat>", **BASE}).save(folder)
    (folder / "log.jsonl").write_text("{}")
    (folder / "checkpoint-100").mkdir()
    return folder


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    found = HeadSet(
        model="UNet2DConditionModel",
        weights="0",
        layers={"mid.attn1": 2},
        objective="clip",
        scale=3.0,
        strength=0.5,
        guidance=None,
        call={"num_inference_steps": 4},
        prompts=("a star",),
        seeds=(0,),
        baseline=0.25,
        rounds=({("mid.attn1", 0): 0.5, ("mid.attn1", 1): 0.125},),
    )
    found.save(tmp_path / "heads.json")
    return tmp_path / "heads.json"


class Hub:
    """What is asked of the hub."""

    calls: list[tuple[Any, ...]]

    def __init__(self) -> None:
        Hub.calls = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        Hub.calls.append(("create", repo_id, private, exist_ok))
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        content = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        Hub.calls.append(("upload", repo_id, content, commit_message))


def front(text: str) -> dict[str, Any]:
    return ModelCard(text).data.to_dict()


def code(text: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        compile(block, "card", "exec")
        for line in block.splitlines():
            if line.startswith("from "):
                exec(line, {})
    return blocks


def test_the_card_of_a_word(cat: Path) -> None:
    text = card(cat, "me/cat")
    data = front(text)
    assert data["base_model"] == "owner/model"
    assert data["instance_prompt"] == "<cat>"
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert data["tags"] == ["diffusteer", "textual-inversion", "text-to-image"]
    plain, ours = code(text)
    assert 'load_textual_inversion("me/cat", weight_name="learned_embeds.safetensors")' in plain
    assert 'weight_name="learned_embeds_2.safetensors", text_encoder=pipe.text_encoder_2' in plain
    assert plain.count("\n") == 2
    assert 'load(pipe, snapshot_download("me/cat"))' in ours
    assert "- diffusteer.steps: `300`" in text
    assert "OWNER/NAME" in card(cat)


def test_one_file_of_another_program(tmp_path: Path) -> None:
    tensors = {"clip_l": torch.randn(1, 32)}
    Artifact("textual-inversion", tensors, {"token": "<a>"}).save(tmp_path)
    (tmp_path / "learned_embeds.safetensors").rename(tmp_path / "style.safetensors")
    sent = push(tmp_path / "style.safetensors", "me/style", dry_run=True)
    assert sent.files == ("style.safetensors", "README.md")
    assert 'weight_name="style.safetensors")' in sent.card
    assert "base_model" not in front(sent.card)


@pytest.mark.parametrize("base", ["emblem-unet", "/models/sd", "{folder}/a"])
def test_only_the_hubs_models_are_linked(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    about = {"token": "<a>", "diffusteer.base_model": base.format(folder="runs")}
    Artifact("textual-inversion", {"clip_l": torch.randn(1, 32)}, about).save(tmp_path / "x")
    assert "base_model" not in front(card(tmp_path / "x"))


def test_the_card_of_heads(heads: Path) -> None:
    text = card(heads, "me/heads")
    assert front(text)["tags"] == ["diffusteer", "attention-heads", "text-to-image"]
    assert "`mid.attn1:0` took clip from 0.2500 to 0.5000" in text
    (ours,) = code(text)
    assert 'HeadSet.load(hf_hub_download("me/heads", "heads.json")).best()' in ours
    assert "SoftPAG(3, heads=heads, strength=0.5)" in ours
    assert push(heads, "me/heads", dry_run=True).files == ("heads.json", "README.md")
    heads.with_suffix(".png").write_bytes(b"png")
    assert push(heads, "me/heads", dry_run=True).files == ("heads.json", "heads.png", "README.md")


@pytest.mark.parametrize(
    "kind", ["alignment", "classifier", "discriminator-unet", "reward", "minority-unet"]
)
def test_the_card_of_an_evaluator(kind: str) -> None:
    folder = shipped(f"emblem-evaluators/{kind}")
    sent = push(folder, "me/judge", dry_run=True)
    assert sent.files == ("config.json", "model.safetensors", "README.md")
    assert front(sent.card)["tags"] == ["diffusteer", "evaluator", kind.split("-")[0]]
    code(sent.card)
    assert "- model: `emblem-unet`" in sent.card


def test_what_is_sent(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.hub.push.HfApi", Hub)
    result = run(cat, "me/cat")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "4 files, see https://hub/me/cat\n"
    made, (what, repository, content, message) = Hub.calls
    assert made == ("create", "me/cat", True, True)
    assert (what, repository, message) == ("upload", "me/cat", "Add cat.safetensors")
    assert content.pop("README.md").decode() == card(cat, "me/cat")
    assert content == {path.name: path.read_bytes() for path in cat.glob("*.safetensors")}
    run(cat, "me/cat", "--public")
    assert Hub.calls[0] == ("create", "me/cat", False, True)


def test_a_trial_sends_nothing(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.hub.push.HfApi", None)
    names = ["cat.safetensors", "learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    result = run(cat, "me/cat", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert (
        result.stdout
        == f"{card(cat, 'me/cat')}\nwould be sent with {', '.join(names)}, README.md\n"
    )
    told = json.loads(run(cat, "me/cat", "--dry-run", "--json").stdout)
    assert told == {"files": [*names, "README.md"], "card": card(cat, "me/cat"), "url": None}


def test_without_the_hub_it_is_one_line(cat: Path) -> None:
    result = run(cat, "me/cat")
    assert result.exit_code == 1
    assert result.stderr.startswith("diffusteer: error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "repository", "words"),
    [
        ("{cat}", "a/b/c", "Repo id must be in the form"),
        ("{cat}", "a b", "Repo id must"),
        ("{tmp}/no.safetensors", "me/x", "there is no such file"),
        ("{tmp}/no.json", "me/x", "must be a file that HeadSet.save"),
        ("{tmp}/empty", "me/x", "the folder must hold one safetensors file, found none"),
        ("{tmp}/judge", "me/x", "must be an evaluator that `diffusteer train evaluator` wrote"),
    ],
)
def test_wrong_input_is_one_line(
    path: str, repository: str, words: str, cat: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    result = run(path.format(cat=cat, tmp=tmp_path), repository, "--dry-run")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
