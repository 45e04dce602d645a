"""Rules written as text: ``CFG(cosine(2, 9)) + Rescale(0.7)``, read without evaluating code."""

from __future__ import annotations

import ast
import difflib
import inspect
from typing import Any

from guidance.core.chain import Chain
from guidance.core.config import Part
from guidance.core.kinds import Conditioning, Correction, Direction, Starting
from guidance.core.perturb import PerturbedDirection
from guidance.core.rule import Rule
from guidance.core.scaled import ScaledDirection
from guidance.core.schedule import Schedule

_LONGEST = 2000


def parse_rule(text: str) -> Rule:
    """The rule that a text describes, in the notation of ``repr(rule)``.

    Names of methods, schedules and evaluators ignore case; a bare name stands for its defaults;
    ``a + b``, parentheses and ``.between(...)`` work as in Python.

    Raises:
        ValueError: one line that says what is wrong: syntax, an unknown name, a wrong argument.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
        raise ValueError(
            f"rule text must hold 1 to {_LONGEST} characters such as 'CFG(6)', found {text!r:.60}"
        )
    try:
        rule = _rule(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise ValueError(f"cannot read rule {text!r}: {reason}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot read rule {text!r}: {error}") from error
    return rule


def known_rules() -> dict[str, type[Rule]]:
    """Methods that a text may name."""
    abstract = (
        Chain,
        Conditioning,
        Correction,
        Direction,
        PerturbedDirection,
        ScaledDirection,
        Starting,
    )
    return {name: cls for name, cls in Rule.known.items() if cls not in abstract}


def _rule(node: ast.expr) -> Rule:
    value = _value(node)
    if isinstance(value, type):
        value = value()
    if not isinstance(value, Rule):
        raise ValueError(f"expected a rule such as CFG(6), found {ast.unparse(node)}")
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() | bool() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_argument(item) for item in items)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _rule(left) + _rule(right)
        case ast.Name(id=name):
            return _named(name)
        case ast.Call(func=ast.Attribute(value=inner, attr="between")):
            return _rule(inner).between(*_args(node), **_kwargs(node))
        case ast.Call(func=ast.Name(id=name)):
            return _made(_named(name), _args(node), _kwargs(node))
        case _:
            raise ValueError(
                f"{ast.unparse(node)} is not allowed: expected names, numbers, calls, + and between"
            )


def _made(cls: type[Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        settings = ", ".join(inspect.signature(cls).parameters)
        raise ValueError(f"{cls.__name__}: {error}; write {cls.__name__}({settings})") from None
    return cls(*args, **kwargs)


def _args(call: ast.Call) -> list[Any]:
    return [_argument(item) for item in call.args]


def _kwargs(call: ast.Call) -> dict[str, Any]:
    if any(item.arg is None for item in call.keywords):
        raise ValueError("** is not allowed: write the arguments out")
    return {str(item.arg): _argument(item.value) for item in call.keywords}


def _argument(node: ast.expr) -> Any:
    value = _value(node)
    if isinstance(value, type) and issubclass(value, Rule | Part):
        return value()
    if isinstance(value, type):
        raise ValueError(f"{value.__name__} needs arguments, such as linear(2, 9)")
    return value


def _named(name: str) -> type[Any]:
    rules = known_rules()
    known: dict[str, type[Any]] = {key.lower(): cls for key, cls in Schedule.known.items()}
    known |= {key.lower(): cls for key, cls in Part.known.items()}
    known |= {key.lower(): cls for key, cls in rules.items()}
    if name.lower() in known:
        return known[name.lower()]
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {known[close[0]].__name__}?" if close else ""
    raise ValueError(
        f"unknown name {name!r}{hint} (known rules: {', '.join(sorted(rules))}; "
        f"schedules: {', '.join(Schedule.known)}; evaluators: {', '.join(sorted(Part.known))})"
    )
