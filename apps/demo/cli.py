"""``diffusteer demo``: the web demo."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from apps.demo.settings import MODELS, DemoSettings
from apps.errors import one_line_errors
from apps.options import Device, Dtype, Verbose
from apps.quiet import quiet


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Shipped model, folder of a diffusers pipeline, or hub id; repeat for several. "
            f"Default: {' and '.join(MODELS)}."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; needs --auth if others can reach it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Default: the first free one from 7860 up.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD",
            envvar="DIFFUSTEER_AUTH",
            help="What visitors have to give.",
        ),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Open a public address too; needs --auth.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    verbose: Verbose = False,
) -> None:
    """Open the demo in a browser: guidance side by side, heads, personalization, evaluation.

    Example, with the models that come along, for this machine alone:

        [bold]diffusteer demo[/bold]

    For others in the same network, who have to give the password:

        [bold]diffusteer demo --host 0.0.0.0 --auth user:password[/bold]
    """
    with one_line_errors(verbose, "stopped"):
        settings = DemoSettings(
            models=tuple(model or MODELS),
            host=host,
            port=port,
            auth=auth,
            share=share,
            device=device,
            dtype=dtype,
        )
        if find_spec("gradio") is None:
            raise ValueError("the demo needs gradio; pip install 'diffusteer[demo]'")
        if not verbose:
            quiet()
        from apps.demo.app import serve  # loads gradio, torch and diffusers: not for --help

        serve(settings)
