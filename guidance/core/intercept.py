"""Interception of an object's calls by giving it a subclass of its own class, as parametrize does.

The object itself is not touched: hooks that sit on ``forward``, such as accelerate's offloading,
work on below the call, and nothing is left behind when the class is put back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the plain method, its positional arguments and its keyword arguments."""

_HANDLERS: WeakKeyDictionary[Any, Mapping[str, Handler]] = WeakKeyDictionary()


@functools.cache
def _intercepted(cls: type, names: tuple[str, ...]) -> type:
    """Subclass of the same name whose instances call handlers; one per class, for compile."""
    body = {
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return type(cls.__name__, (cls,), body | {name: _method(cls, name) for name in names})


def _method(cls: type, name: str) -> Callable[..., Any]:
    """A method that calls its object's handler, if there is one, in place of the class's own."""
    own = getattr(cls, name)

    @functools.wraps(own)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(own, self)
        handler = _HANDLERS.get(self, {}).get(name)
        return plain(*args, **kwargs) if handler is None else handler(plain, args, kwargs)

    return call


@contextmanager
def intercept(target: Any, handlers: Mapping[str, Handler]) -> Iterator[None]:
    """Send calls of an object's methods to handlers; on leaving, its class is put back.

    Args:
        target: the object.
        handlers: by the name of the method, ``"__call__"`` for calls of the object itself.

    Raises:
        ValueError: the object is intercepted already.
    """
    if target in _HANDLERS:
        raise ValueError(
            f"this {type(target).__name__} is guided already: guide blocks cannot be nested on one "
            "denoiser; combine the rules with + instead"
        )
    original: type = type(target)
    object.__setattr__(target, "__class__", _intercepted(original, tuple(handlers)))
    _HANDLERS[target] = handlers
    try:
        yield
    finally:
        object.__setattr__(target, "__class__", original)
        del _HANDLERS[target]
