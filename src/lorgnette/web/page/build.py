"""The page as a whole: its tabs, its looks, and what of Gradio is kept within bounds."""

# pyright: reportMissingImports=false
from __future__ import annotations

import os

from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lorgnette.web.server import Server

UPLOADS = "/gradio_api/upload"
SWEEP_SECONDS, KEPT_SECONDS = 600, 3600


def add_page(app: FastAPI, server: Server) -> FastAPI:
    """The page at `/`, beside what the application has already."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(server.home / "page"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    import gradio as gr

    from lorgnette.web.page.adapt import adapt_tab
    from lorgnette.web.page.classes import classes_tab
    from lorgnette.web.page.look import CSS, THEME
    from lorgnette.web.page.mesh import mesh_tab
    from lorgnette.web.page.pictures import pictures_tab

    with gr.Blocks(title="Lorgnette", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown("# Lorgnette")
        with gr.Tabs():
            with gr.Tab("Pictures"):
                pictures_tab(server, page)
            with gr.Tab("Meshes"):
                mesh_tab(server)
            with gr.Tab("Classes"):
                classes_tab(server, page)
            with gr.Tab("Adapt"):
                adapt_tab(server)
    page.queue(default_concurrency_limit=None, api_open=False)  # the server's own queue is behind it
    app.add_middleware(Bounded, server=server)
    return gr.mount_gradio_app(
        app,
        page,
        "/",
        theme=THEME,
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        max_file_size=server.settings.limits.upload_bytes,
    )


class Bounded:
    """Uploads of the page, whose files Gradio keeps for a while: no more of them than fit the server's disk."""

    def __init__(self, app: ASGIApp, server: Server):
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(UPLOADS) and scope["method"] == "POST":
            lengths = [value for name, value in scope["headers"] if name == b"content-length"]
            length = int(lengths[0]) if lengths and lengths[0].isdigit() else None
            reason = self._refusal(length)
            if reason:
                return await JSONResponse({"detail": reason}, 413)(scope, receive, send)
        await self._app(scope, receive, send)

    def _refusal(self, length: int | None) -> str:
        limits = self._server.settings.limits
        kept = sum(file.stat().st_size for file in (self._server.home / "page").rglob("*") if file.is_file())
        if length is None:
            return "the upload does not say how large it is"
        return "the server's disk is full; later there may be room" if kept + length > limits.stored_bytes else ""
