"""The page and its server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import gradio as gr

from apps.demo import compare_tab, evaluate_tab, generate_tab, heads_tab, personalize_tab
from apps.demo.model import Models
from apps.demo.page import problem
from apps.demo.session import Sessions
from apps.demo.settings import DemoSettings
from apps.demo.widgets import STATIC

UPLOAD_LIMIT = "20mb"
MOST_WAITING = 50
KEPT_SECONDS = 3600
"""How long files of visitors are kept at least."""

THEME = gr.themes.Default(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_600",
    button_primary_text_color="white",
)


class Page(gr.Blocks):
    """Blocks that refuse what a field cannot take as the demo does: in one line."""

    async def preprocess_data(self, *values: Any, **more: Any) -> Any:
        try:
            return await super().preprocess_data(*values, **more)
        except Exception as error:  # fields raise errors of many unrelated types
            reason = getattr(error, "message", None) or error
            raise problem(f"a field does not take this value: {reason!s:.300}") from error


def build(models: Models, sessions: Sessions) -> gr.Blocks:
    """The page."""
    with Page(
        title="diffusteer", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        gr.HTML(
            "<h1>diffusteer</h1><p>What guidance does to a diffusion model, side by side.</p>",
            elem_classes="title",
        )
        with gr.Tab("Generate"):
            mine = generate_tab.build_tab(models, sessions)
        with gr.Tab("Compare") as tab:
            compare_tab.build_tab(tab, models, sessions, mine)
        with gr.Tab("Heads"):
            heads_tab.build_tab(models, sessions)
        with gr.Tab("Personalize"):
            personalize_tab.build_tab(models, sessions)
        with gr.Tab("Evaluate"):
            evaluate_tab.build_tab(sessions, models.device)

        def leave(request: gr.Request) -> None:
            sessions.end(request)

        page.unload(leave)
    return page


@contextmanager
def served(settings: DemoSettings) -> Iterator[str]:
    """Serve the page while the block runs; yields its address.

    Raises:
        ValueError: there is no such model.
        OSError: the port is taken.
    """
    models, sessions = Models(settings), Sessions()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="diffusteer-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what the server keeps for visitors goes with it
        page = build(models, sessions).queue(max_size=MOST_WAITING)
        try:
            _, local, public = page.launch(
                server_name=settings.host,
                server_port=settings.port,
                auth=settings.credentials,
                share=settings.share,
                prevent_thread_lock=True,
                quiet=True,
                allowed_paths=[],
                max_file_size=UPLOAD_LIMIT,
                show_error=True,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                theme=THEME,
                css_paths=STATIC / "style.css",
            )
            yield public or local
        finally:
            sessions.end_all()
            page.close(verbose=False)


def serve(settings: DemoSettings) -> None:
    """Serve the page until the process is interrupted."""
    with served(settings) as address:
        print(f"diffusteer demo on {address}, Ctrl-C ends it")
        Event().wait()
