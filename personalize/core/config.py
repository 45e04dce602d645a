"""Settings from files and the command line, and every problem in them at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model

from personalize.core.settings import StrictSettings

Settings = TypeVar("Settings")


def read_config(path: Path) -> dict[str, Any]:
    """The tables of a TOML or YAML file.

    Raises:
        ValueError: the file cannot be read, or is no table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"cannot read config file {str(path)!r}: {reason}") from error
    kind = path.suffix.lower()
    if kind not in (".toml", ".yaml", ".yml"):
        raise ValueError(f"config file must be .toml, .yaml or .yml, found {str(path)!r}")
    try:
        tables = tomllib.loads(text) if kind == ".toml" else _yaml(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"cannot read config file {str(path)!r}: {_line(error)}") from error
    if not isinstance(tables, dict) or not all(isinstance(key, str) for key in tables):
        raise ValueError(f"config file {str(path)!r} must be a table of settings")
    return tables


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.2: 1e-3 is a number, and no is a word, as in ``mixed_precision: no``."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, shape) for tag, shape in pairs if not tag.endswith((":bool", ":float"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _yaml(text: str) -> Any:
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _YamlLoader)):
        raise yaml.YAMLError("aliases are not allowed")
    return yaml.load(text, _YamlLoader)


def assign(tables: dict[str, Any], assignments: Iterable[str]) -> None:
    """Set ``a.b=c`` in nested tables; the value is TOML, or text where it is none.

    Raises:
        ValueError: an assignment without ``=``, or into what is no table.
    """
    for assignment in assignments:
        dotted, equals, value = assignment.partition("=")
        names = [name.strip() for name in dotted.split(".")]
        if not equals or not all(names):
            raise ValueError(
                f"--set must be such as train.learning_rate=1e-3, found {assignment!r}"
            )
        table = tables
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ValueError(f"--set {assignment!r}: {name!r} is no table")
        table[names[-1]] = _value(value)


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def model_of(settings: type[Any]) -> type[BaseModel]:
    """A model that checks the arguments of a frozen dataclass."""
    types = get_type_hints(settings, include_extras=True)
    arguments: dict[str, Any] = {}
    for field in fields(settings):
        default: Any = ...
        if field.default is not MISSING:
            default = field.default
        elif field.default_factory is not MISSING:
            default = Field(default_factory=field.default_factory)
        arguments[field.name] = (types[field.name], default)
    return create_model(settings.__name__, __base__=StrictSettings, **arguments)


def checked(parts: Mapping[str, tuple[type[Any], Any]]) -> dict[str, Any]:
    """Settings objects of several tables, or every problem of all of them at once.

    Args:
        parts: of each table its name, empty for the outermost, and a pydantic model or a dataclass
            with what was found for it.

    Raises:
        ValueError: of each problem where it is, what is expected, what was found.
    """
    made: dict[str, Any] = {}
    problems: list[str] = []
    for name, (kind, found) in parts.items():
        try:
            made[name] = _make(kind, found)
        except ValidationError as error:
            problems += [_problem(name, details) for details in error.errors(include_url=False)]
        except (TypeError, ValueError) as error:
            problems.append(f"{name}: {_line(error)}")
    if problems:
        raise ValueError("; ".join(problems))
    return made


def _make(kind: type[Settings], found: Any) -> Settings:
    text = json.dumps(found, default=str)  # in JSON a list may stand for a tuple
    if issubclass(kind, BaseModel):
        return kind.model_validate_json(text)
    values = model_of(kind).model_validate_json(text)
    return kind(**{name: getattr(values, name) for name in values.model_fields_set})


def _problem(table: str, details: Any) -> str:
    where = ".".join(str(part) for part in (table, *details["loc"]) if part != "")
    if details["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    if details["type"] == "missing":
        return f"{where}: must be given"
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"] and details["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message[:1].lower()}{message[1:]}, found {details['input']!r}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
