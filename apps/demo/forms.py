"""What a request may hold, checked on the server whatever the page allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from apps.demo.model import SCHEDULERS

MOST_RULES = 6
MAX_SEED = 2**32 - 1

Text = Annotated[str, Field(max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Settings = TypeVar("Settings", bound=BaseModel)


class Form(BaseModel):
    """No other names, no other types, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RuleItem(Form):
    """One rule of a stack.

    Attributes:
        rule: name of the method.
        settings: as JSON, by name; read by ``apps.demo.stack``.
        between: part of the run that the rule is limited to.
    """

    rule: Annotated[str, Field(max_length=60)]
    settings: dict[str, Any] = {}
    between: Annotated[tuple[Share, Share], Field(strict=False)] = (0.0, 1.0)


Stack = Annotated[list[RuleItem], Field(max_length=MOST_RULES)]


class Request(Form):
    """What all drawing has in common."""

    model: Annotated[str, Field(max_length=200)]
    prompt: Annotated[str, Field(max_length=1000)]
    negative: Text = ""
    steps: Annotated[int, Field(ge=1, le=100)] = 25
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    pictures: Annotated[int, Field(ge=1, le=8)] = 4
    scheduler: Literal[SCHEDULERS] = SCHEDULERS[0]  # type: ignore[valid-type]

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("write what to draw, such as: a red star")
        return prompt


class StackForm(Form):
    """A stack of rules alone."""

    stack: Stack


class DrawRequest(Request):
    """Pictures of one stack of rules."""

    stack: Stack


def checked(form: type[Settings], values: Mapping[str, Any]) -> Settings:
    """The form of these values.

    Raises:
        ValueError: one line with the first thing that is wrong.
    """
    try:
        return form.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(
            str(part + 1) if isinstance(part, int) else part.replace("_", " ")
            for part in first["loc"]
        )
        reason = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] == "value_error" else f", found {first['input']!r:.60}"
        raise ValueError(f"{where}: {reason[:1].lower()}{reason[1:]}{found}") from error
