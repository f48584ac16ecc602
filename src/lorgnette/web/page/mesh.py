"""The tab for meshes: drop a mask, see its organs turn, take them away."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from lorgnette.web.asked import Meshing, meshing
from lorgnette.web.jobs import Job
from lorgnette.web.page.follow import PRIVATE, canceller, client_of, submitted, worked
from lorgnette.web.page.look import address, figures, frame, links, progress
from lorgnette.web.server import Server

FORMATS = ("stl", "ply", "obj", "glb", "vtp")


def mesh_tab(server: Server) -> None:
    """Fill the tab."""
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            file = gr.File(label="Mask: NIfTI, or a DICOM segmentation", elem_id="mask", height=160)
            only = gr.Textbox(label="Organs", placeholder="all; or names or numbers, with commas", elem_id="only")
            format = gr.Dropdown(list(FORMATS), value="stl", label="Format", elem_id="mesh-format")
            largest = gr.Checkbox(label="Only the largest part of each", elem_id="largest")
            with gr.Row():
                go = gr.Button("Make meshes", variant="primary", elem_id="mesh-go")
                stop = gr.Button("Cancel", variant="stop", elem_id="mesh-cancel")
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML(progress("Drop a mask, then make meshes."), elem_id="mesh-status")
            view = gr.HTML(elem_id="mesh-view")
            results = gr.HTML(elem_id="mesh-results")

    async def make(
        path: str | None, only: str, format: str, largest: bool, request: gr.Request
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        if not path:
            yield progress("There is no mask yet: drop one on the left."), "", ""
            return

        def start() -> Job:
            wanted = [word.strip() for word in only.split(",") if word.strip()]
            asked = Meshing.model_validate({"only": wanted, "format": format, "largest": largest})
            return submitted(server, path, "mesh", meshing(asked) | {"preview": True}, client_of(request))

        async for text, job, _ in worked(server, start, "organ"):
            if job is None:
                yield text, "", ""
                continue
            (name,), (seen,) = job.result["files"], job.result["preview"]
            found = links({name: address(job, name)}, job.result["said"]) + figures(job.result["found"]["organs"])
            yield text, frame(address(job, seen), name), found

    go.click(make, [file, only, format, largest], [status, view, results], **PRIVATE)

    stop.click(canceller(server), None, None, queue=False, **PRIVATE)
