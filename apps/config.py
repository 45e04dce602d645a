"""``--config FILE`` for every command: what the command line does not say, the file does."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperGroup
from typer.main import get_command


def add_config(group: TyperGroup) -> None:
    """Give ``--config`` to every command of a group that has none of its own."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            add_config(command)
        elif all(param.name != "config" for param in command.params):
            command.params += _OPTIONS


def _read(context: typer.Context, path: Path | None) -> None:
    """Make the settings of a file the defaults of a command.

    Raises:
        typer.BadParameter: names every setting that the command does not have.
    """
    if path is None or context.resilient_parsing:
        return
    from personalize.core.config import read_config  # loads torch: not for --help

    try:
        context.default_map = _defaults(context, read_config(path))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _defaults(context: typer.Context, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by the names of the command's parameters; all problems at once."""
    known = {_key(param): param for param in context.command.params if param.name != "config"}
    found: dict[str, Any] = {}
    problems = []
    for key, value in settings.items():
        param: Any = known.get(key.replace("-", "_"))
        if param is None:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"{key}: there is no such setting{hint}")
            continue
        if isinstance(value, bool) and param.type_descriptor.annotation is not bool:
            problems.append(f"{key}: expected a number or text, found {value}")
            continue
        several = param.multiple or param.nargs != 1
        found[param.name] = [value] if several and not isinstance(value, list) else value
        try:
            param.process_value(context, found[param.name])
        except typer.BadParameter as error:
            problems.append(f"{key}: {error.message}, found {value!r}")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _key(param: Any) -> str:
    """The name of a parameter as the user knows it."""
    name = param.name if isinstance(param, TyperArgument) else max(param.opts, key=len)
    return name.lstrip("-").replace("-", "_")


def _option(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML or YAML file with settings by the names of these options, which go first.",
            callback=_read,
            is_eager=True,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Carries the option, which typer makes for functions alone."""


_carrier = typer.Typer(add_completion=False)
_carrier.command()(_option)
_OPTIONS = get_command(_carrier).params
