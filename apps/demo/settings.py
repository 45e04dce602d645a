"""Settings of the demo, checked as they are made; light enough to import for --help."""

from __future__ import annotations

from dataclasses import dataclass

from apps.settings import check_whole

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MODELS = ("emblem-unet", "emblem-dit")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What to serve, and to whom.

    Attributes:
        models: shipped models, folders of diffusers pipelines, or hub ids.
        host: address to listen on; other than loopback only with ``auth``.
        port: to listen on; None is the first free one from 7860 up.
        auth: ``user:password`` that visitors have to give, or None.
        share: also open a public address, only with ``auth``.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range, or would let
            strangers in.
    """

    models: tuple[str, ...] = MODELS
    host: str = "127.0.0.1"
    port: int | None = None
    auth: str | None = None
    share: bool = False
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model, found none")
        if self.port is not None:
            check_whole("port", self.port, 1, 65535)
        if self.auth is not None and not all(self.auth.partition(":")):
            raise ValueError("auth must be user:password with both parts, found another form")
        if self.auth is None and self.host not in LOOPBACK:
            raise ValueError(
                f"host {self.host!r} lets others in: expected one of {', '.join(LOOPBACK)}; give "
                "--auth user:password too"
            )
        if self.auth is None and self.share:
            raise ValueError("share lets others in: give --auth user:password too")

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, or None."""
        if self.auth is None:
            return None
        user, _, password = self.auth.partition(":")
        return user, password
