"""Interception of an object's calls by giving it a subclass of its own class, as parametrize does.

The object itself is not touched: hooks that sit on ``forward``, such as accelerate's offloading,
work on below the call, and nothing is left behind when the class is put back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the plain call, its positional arguments and its keyword arguments."""

_HANDLERS: WeakKeyDictionary[Any, Handler] = WeakKeyDictionary()


@functools.cache
def _intercepted(cls: type) -> type:
    """Subclass of the same name whose instances call their handler; one per class, for compile."""

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(cls.__call__, self)
        handler = _HANDLERS.get(self)
        return plain(*args, **kwargs) if handler is None else handler(plain, args, kwargs)

    body = {
        "__call__": call,
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return type(cls.__name__, (cls,), body)


@contextmanager
def intercept(target: Any, handler: Handler) -> Iterator[None]:
    """Send the calls of an object to a handler; on leaving, its class is put back.

    Raises:
        ValueError: the object is intercepted already.
    """
    if target in _HANDLERS:
        raise ValueError(
            f"this {type(target).__name__} is guided already: guide blocks cannot be nested on one "
            "denoiser; combine the rules with + instead"
        )
    original: type = type(target)
    object.__setattr__(target, "__class__", _intercepted(original))
    _HANDLERS[target] = handler
    try:
        yield
    finally:
        object.__setattr__(target, "__class__", original)
        del _HANDLERS[target]
