"""What every command has in common: help that teaches, the same flags, one line for every error."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from apps.cli import app

COMMANDS: dict[str, str] = {
    "sample": "x",
    "compare": "x --rules CFG(2)",
    "hunt": "--prompts {file}",
    "inspect": "",
    "demo": "",
    "push": "{file} owner/name",
    "bench guidance": "",
    "bench personalize": "",
    "claims guidance": "",
    "claims feedback": "",
    "claims personalize": "",
    "evaluate distribution": "made real",
    "evaluate statistics": "real real.safetensors",
    "evaluate prompts": "made",
    "evaluate subject": "made real",
    "evaluate dreambench": "prompts",
    "evaluate multi": "made real",
    "evaluate emblem": "made",
    "evaluate report": "a.json --out report",
    "train minority": "--data data --out out",
    "train covariance": "--out c.safetensors",
    "train linear-ag": "--prompts {file} --scale 4",
    "train masks": "--train_data_dir photos --super_category cat",
    "train textual-inversion": "--train_data_dir photos --output_dir out",
    "train perfusion": "--train_data_dir photos --output_dir out",
    "train zoodip": "--train_data_dir photos --output_dir out",
    "train evaluator": "--kind alignment --data data --out out",
}
"""Every command with arguments that go as far as loading its libraries."""

QUIET = "apps.quiet.warnings"
WORK = {
    "evaluate dreambench": "apps.evaluate.protocols.dreambench.write_prompts",
    "evaluate report": "apps.evaluate.reporting.report.report",
}
"""What to make fail in commands that keep no libraries quiet."""

every_command = pytest.mark.parametrize("name", COMMANDS)


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def run(name: str, *words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, [*name.split(), *words], env=environment, prog_name="diffusteer")


def test_the_table_has_every_command() -> None:
    assert COMMANDS.keys() == {name for name, _ in leaves(typer.main.get_command(app))}


@every_command
def test_help_teaches_and_flags_are_the_same(name: str) -> None:
    command = dict(leaves(typer.main.get_command(app)))[name]
    flags = {flag: param for param in command.params for flag in param.opts}
    assert f"diffusteer {name}" in command.help
    assert "Example" in command.help
    assert {"--verbose", "--config"} <= flags.keys()
    assert ("--json" in flags) == (name != "demo")
    assert all(param.help for param in command.params)
    for flag, same in (("--device", "auto, cpu,"), ("--dtype", "auto, float32,")):
        assert flag not in flags or flags[flag].help.startswith(same)
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert "Example" in shown.stdout


@every_command
def test_a_wrong_option_is_one_line(name: str) -> None:
    result = run(name, "--no-such-option")
    assert result.exit_code == 2
    assert result.stderr.startswith("diffusteer: error: No such option")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@every_command
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "diffusteer: stopped"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "diffusteer: error: [Errno 28] No"),
        (ValueError("it must be another"), 2, "diffusteer: error: it must be another"),
    ],
)
def test_exit_codes(
    name: str,
    error: BaseException,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("apps.demo.cli.find_spec", lambda package: True)
    (tmp_path / "prompts.txt").write_text("x\n")
    work = WORK.get(name)
    monkeypatch.setattr(work or QUIET, fail if work else SimpleNamespace(simplefilter=fail))
    result = run(name, *COMMANDS[name].format(file="prompts.txt").split())
    assert result.exit_code == code
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_shells_complete_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for shell in ("bash", "zsh", "fish"):
        script = run("--show-completion", shell)
        assert script.exit_code == 0
        assert "_DIFFUSTEER_COMPLETE" in script.stdout
    for words, found in (("diffusteer com", "compare"), ("diffusteer sample --sched", "scheduler")):
        place = str(words.count(" "))
        asked = run("", _DIFFUSTEER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
        assert found in asked.stdout


def test_a_signal_leaves_whole_pictures(models: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    options = ["--model", str(models / "sd"), "--steps", "1", "--num-images", "5000"]
    command = [str(Path(sys.executable).with_name("diffusteer")), "sample", "x", *options]
    with subprocess.Popen(
        [*command, "--batch-size", "1", "--out", str(made)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has its children ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not list(made.glob("*.png")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "diffusteer: stopped; finished pictures are kept\n"
    assert {path.suffix for path in made.iterdir()} == {".png"}
