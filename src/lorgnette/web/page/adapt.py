"""The tab for adapting: drop photographs, train for minutes, watch the curve, keep the adapter."""

# pyright: reportMissingImports=false
from __future__ import annotations

import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from lorgnette.common.text import number
from lorgnette.images.kinds import Kind
from lorgnette.systems import rooms_with
from lorgnette.web.asked import Adapting, adapting
from lorgnette.web.jobs import Job
from lorgnette.web.page.follow import PRIVATE, canceller, client_of, dropped, submitted, worked
from lorgnette.web.page.look import PURPOSE, address, curves, links, progress
from lorgnette.web.server import Server

CLEAN = "none: made small, and nothing else"


def adapt_tab(server: Server) -> None:
    """Fill the tab."""
    rooms = [(PURPOSE.get(room, room), room) for room in rooms_with("enhance")]
    limits = server.settings.limits
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            files = gr.File(file_count="multiple", label="Photographs: ten are a start", elem_id="photos", height=160)
            room = gr.Radio(rooms, value=rooms[0][1], label="To do what", elem_id="adapt-room")
            damage = gr.Dropdown(
                [CLEAN, *get_args(Kind)[1:]], value=CLEAN, label="What pictures suffer", elem_id="damage"
            )
            minutes = gr.Slider(1, max(2, limits.minutes), 3, step=1, label="Minutes", elem_id="minutes")
            keep = gr.Textbox("mine", label="Name of the adapter", elem_id="keep")
            with gr.Row():
                go = gr.Button("Train", variant="primary", elem_id="adapt-go")
                enough = gr.Button("Enough", elem_id="adapt-enough")
                stop = gr.Button("Cancel", variant="stop", elem_id="adapt-cancel")
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML(progress("Drop photographs, then Train."), elem_id="adapt-status")
            curve = gr.HTML(elem_id="adapt-curve")
            results = gr.HTML(elem_id="adapt-results")

    async def train(
        paths: list[str] | None, room: str, damage: str, minutes: float, keep: str, request: gr.Request
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        if not paths:
            yield progress("There are no photographs yet: drop some on the left."), "", ""
            return

        def start() -> Job:
            asked = Adapting(room=room, minutes=minutes, keep=keep, damage="" if damage == CLEAN else damage)
            return _submit(server, paths, adapting(asked, limits.minutes), client_of(request))

        async for text, job, points in worked(server, start, "step"):
            yield (text, curves(points), "") if job is None else (progress(_gain(job)), curves(points), _kept(job))

    go.click(train, [files, room, damage, minutes, keep], [status, curve, results], **PRIVATE)

    def done(request: gr.Request) -> None:
        for job in server.jobs.of(client_of(request)):
            server.place.enough(job)

    enough.click(done, None, None, queue=False, **PRIVATE)
    stop.click(canceller(server), None, None, queue=False, **PRIVATE)


def _submit(server: Server, paths: list[str], settings: dict[str, Any], client: str) -> Job:
    """The photographs as one file, as the API takes them."""
    with tempfile.TemporaryDirectory(dir=server.home / "page") as folder:
        archive = Path(folder) / "photographs.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for count, path in enumerate(paths):
                packed.write(dropped(server, path), f"{count:04}-{Path(path).name}")
        return submitted(server, str(archive), "adapt", settings, client, 60 * settings["minutes"])


def _gain(job: Job) -> str:
    found = job.result["found"]
    if not found["improved"]:
        return "Done, but it did not help: what was kept changes nothing."
    pairs = [f"{name} {number(found['before'].get(name))} → {number(value)}" for name, value in found["after"].items()]
    return f"Done. {', '.join(pairs)}"


def _kept(job: Job) -> str:
    (name,) = job.result["files"]
    offered = f"Under Pictures it can be chosen as {job.result['found']['adapter']}, until the server ends."
    return links({name: address(job, name)}, [*job.result["said"], offered])
