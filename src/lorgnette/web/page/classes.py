"""The tab for classes: drop a picture, and see what it is taken for, as bars."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import AsyncIterator

import gradio as gr

from lorgnette.web.asked import Classifying, classifying
from lorgnette.web.jobs import Job
from lorgnette.web.page.follow import PRIVATE, client_of, submitted, worked
from lorgnette.web.page.look import bars, progress
from lorgnette.web.server import Server

BY_NAME = "by the names alone"


def classes_tab(server: Server, page: gr.Blocks) -> None:
    """Fill the tab."""

    def names() -> list[str]:
        return [BY_NAME, *dict.fromkeys(one.name for one in server.offers() if one.room == "clip")]

    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            file = gr.File(label="Picture", elem_id="class-file", height=160)
            adapter = gr.Dropdown(names(), value=BY_NAME, label="Adapter", elem_id="class-adapter")
            words = gr.Textbox(label="Names of classes", placeholder="zero, one, two", elem_id="class-names")
            go = gr.Button("Classify", variant="primary", elem_id="class-go")
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML(progress("Drop a picture, then Classify."), elem_id="class-status")
            shown = gr.HTML(elem_id="class-bars")

    async def classify(
        path: str | None, adapter: str, words: str, request: gr.Request
    ) -> AsyncIterator[tuple[str, str]]:
        if not path:
            yield progress("There is no picture yet: drop one on the left."), ""
            return

        def start() -> Job:
            classes = [word.strip() for word in words.split(",") if word.strip()] if adapter == BY_NAME else []
            asked = Classifying(adapter=None if adapter == BY_NAME else adapter, classes=classes, top=10)
            return submitted(server, path, "classify", classifying(asked, server.offers()), client_of(request))

        async for text, job, _ in worked(server, start, "picture"):
            labels = job.result["found"]["labels"] if job else []
            yield text, bars({one["name"]: one["probability"] for one in labels})

    go.click(classify, [file, adapter, words], [status, shown], **PRIVATE)
    page.load(lambda: gr.Dropdown(names()), None, adapter, **PRIVATE)
