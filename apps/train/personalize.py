"""``diffusteer train textual-inversion``, ``perfusion`` and ``zoodip``."""

from __future__ import annotations

import inspect
import json
import logging
import types
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from apps.errors import SayWarnings, one_line_errors, say, speaks
from apps.options import AsJson, Verbose
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL
from apps.train.personal import COMMANDS, Command
from personalize.core.config import assign, checked, read_config
from personalize.core.settings import DataSettings, StrictSettings, TrainSettings


class Places(StrictSettings):
    """What to train on, and where the result goes."""

    pretrained_model_name_or_path: str = DEFAULT_MODEL
    """Shipped model, folder of a diffusers pipeline, or hub id."""
    train_data_dir: Annotated[Path, Field(strict=False)]
    """Folder of photos; captions in metadata.jsonl or text files, masks in NAME.mask.png."""
    output_dir: Annotated[Path, Field(strict=False)]
    """Folder for the result, the checkpoints and the log."""
    device: str = "auto"
    """auto, cpu, mps, cuda, cuda:1 ...; several processes keep to their own."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``diffusteer train``."""
    for name, command in COMMANDS.items():
        # Dashes do as well as the underscores that the scripts of diffusers have.
        context = {"token_normalize_func": lambda token: token.replace("-", "_")}
        app.command(name, context_settings=context)(_function(name, command))


def _function(name: str, command: Command) -> Callable[..., None]:
    """The command: one option for each setting, none of them with a default of its own."""

    def train(**options: Any) -> None:
        _train(name, command, **options)

    parameters = [
        _option("config", Path, "TOML or YAML file with tables method, train and data.", "Run"),
        _option("set", list[str], "Such as train.seed=3; over the file's. Repeat for more.", "Run"),
        *(_option(key, kind, text, "Run") for key, kind, text in _fields(Places)),
        *(_option(key, *option, "Method") for key, option in command.options.items()),
        *(_option(key, kind, text, "Photos") for key, kind, text in _fields(DataSettings)),
        *(_option(key, kind, text, "Training") for key, kind, text in _fields(TrainSettings)),
        _parameter("as_json", False, AsJson),
        _parameter("verbose", False, Verbose),
    ]
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__doc__ = f"""{command.summary}

    Example, with the model that comes along:

        [bold]diffusteer train {name} --train_data_dir photos --output_dir out
        {command.example}[/bold]

    All settings may stand in a file instead, and options go before it:

        [bold]diffusteer train {name} --config file.toml --set train.seed=3[/bold]

    Stop with Ctrl-C, and continue with --resume_from_checkpoint latest. On several GPUs:

        [bold]accelerate launch -m apps.cli train {name} ...[/bold]
    """
    return train


def _fields(settings: type[StrictSettings]) -> list[tuple[str, Any, str]]:
    found, train = [], settings is TrainSettings
    for name, field in settings.model_fields.items():
        text = " ".join((field.description or "").split())
        if choices := _choices(field.annotation):
            text += f" One of {', '.join(choices)}."
        if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
            text += f" Default: {field.default}" + (", or the method's." if train else ".")
        found.append((name, _plain(field.annotation), text))
    return found


def _plain(kind: Any) -> type:
    """The type of an option, without None and limits."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return str if get_origin(kind) is Literal else kind


def _choices(kind: Any) -> tuple[str, ...]:
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((get_args(part) for part in parts if get_origin(part) is Literal), ())


def _option(name: str, kind: Any, text: str, panel: str) -> inspect.Parameter:
    flag = f"--{name}/--no_{name}" if kind is bool else f"--{name}"
    option = typer.Option(flag, help=text, rich_help_panel=panel, show_default=False)
    return _parameter(name, None, Annotated[kind | None, option])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _train(name: str, command: Command, **options: Any) -> None:
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    as_json, verbose = options.pop("as_json"), options.pop("verbose")
    stopped = "stopped; continue with --resume_from_checkpoint latest"
    with one_line_errors(verbose, stopped), _Bar() as bar:
        try:
            if not verbose:
                quiet()
            settings = _settings(command, options)
            # loads torch and diffusers: not for --help
            from apps.pipelines import find_model, pick_device
            from personalize.core.trainer import train

            places = settings[""]
            auto = places.device == "auto"
            learned = train(
                find_model(places.pretrained_model_name_or_path),
                settings["method"],
                places.train_data_dir,
                places.output_dir,
                settings["train"],
                settings["data"],
                bar.show,
                None if auto else pick_device(places.device),
            )
        except FloatingPointError as error:
            say(f"error: {error}")
            raise typer.Exit(1) from (error if verbose else None)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            say("error: out of memory; try --gradient_checkpointing or --mixed_precision bf16")
            raise typer.Exit(1) from (error if verbose else None)
        except SystemExit:
            say(stopped)
            raise
    if speaks() and as_json:
        made = {
            "folder": str(places.output_dir),
            "kind": learned.kind,
            "metadata": dict(learned.metadata),
        }
        typer.echo(json.dumps(made, ensure_ascii=False))
    elif speaks():
        typer.echo(f"{name} of {settings['method'].placeholder_token} in {places.output_dir}")


def _settings(command: Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """What file, ``--set`` and options say, in this order; all problems at once."""
    given = {name: value for name, value in options.items() if value is not None}
    tables = read_config(path) if (path := given.pop("config", None)) else {}
    assign(tables, given.pop("set", []))
    method = getattr(import_module(command.home), command.cls)
    kinds = {"method": method, "data": DataSettings, "train": TrainSettings}
    names = {
        "method": list(command.options),
        "data": list(DataSettings.model_fields),
        "train": list(TrainSettings.model_fields),
    }
    parts: dict[str, tuple[type[Any], Any]] = {}
    for table, kind in kinds.items():
        found = tables.pop(table, {})
        flags = {name: given.pop(name) for name in names[table] if name in given}
        parts[table] = (kind, found | flags if isinstance(found, dict) else found)
    return checked({"": (Places, tables | given)} | parts)


class _Bar:
    """Progress on stderr, where a person looks at it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[more]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("loading", total=None, more="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Any) -> None:
        """Where the run is."""
        left, memory = progress.seconds_left, progress.memory / 2**30
        more = "" if left != left else f"{left / 60:.0f} min left, {memory:.1f} GiB"
        if progress.loss == progress.loss:
            more = f"loss {progress.loss:.4f}, {more}"
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.step,
            total=progress.steps,
            more=more,
        )
