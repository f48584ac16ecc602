"""The tab for pictures: drop some, choose how, look, take them away."""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from lorgnette.enhancing.enhancer import AUTO, NONE
from lorgnette.images.formats.table import FORMATS
from lorgnette.systems import rooms_with
from lorgnette.web.asked import Enhancing, enhancing
from lorgnette.web.jobs import Job, State
from lorgnette.web.page.follow import PRIVATE, canceller, client_of, following, submitted
from lorgnette.web.page.look import PURPOSE, address, links, progress, slider
from lorgnette.web.server import Server

AS_GIVEN = "as given"


def pictures_tab(server: Server, page: gr.Blocks) -> None:
    """Fill the tab."""
    rooms = [(PURPOSE.get(room, room), room) for room in rooms_with("enhance")]

    def names(room: str) -> list[str]:
        return [AUTO, NONE, *dict.fromkeys(one.name for one in server.offers() if one.room == room)]

    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            files = gr.File(file_count="multiple", label="Pictures", elem_id="files", height=160)
            room = gr.Radio(rooms, value=rooms[0][1], label="What to do", elem_id="room")
            adapter = gr.Dropdown(names(rooms[0][1]), value=AUTO, label="Adapter", elem_id="adapter")
            scale = gr.Number(2, label="Scale", minimum=0.01, maximum=32, step=0.1, elem_id="scale")
            strength = gr.Slider(0, 1.5, 1, step=0.05, label="Strength", elem_id="strength")
            clean = gr.Slider(0, 1.5, 0, step=0.05, label="Clean first", elem_id="clean")
            suffixes = [format.suffixes[0].removeprefix(".") for format in FORMATS if format.is_written_here]
            format = gr.Dropdown([AS_GIVEN, *suffixes], value=AS_GIVEN, label="Format", elem_id="format")
            with gr.Row():
                go = gr.Button("Enhance", variant="primary", elem_id="go")
                stop = gr.Button("Cancel", variant="stop", elem_id="cancel")
        with gr.Column(scale=2, min_width=320):
            status = gr.HTML(progress("Drop pictures, then Enhance."), elem_id="status")
            view = gr.HTML(elem_id="view")
            results = gr.HTML(elem_id="results")

    async def enhance(
        paths: list[str] | None, room: str, adapter: str, scale: float | None, strength: float, clean: float,
        format: str, request: gr.Request,
    ) -> AsyncIterator[tuple[str, Any, Any]]:  # fmt: skip
        if not paths:
            yield progress("There is no picture yet: drop some on the left."), "", ""
            return
        jobs: list[Job] = []
        try:
            for path in paths:
                asked = Enhancing(
                    name=Path(path).name,
                    room=room,
                    adapter=adapter,
                    scale=scale if room == rooms[0][1] else None,
                    strength=strength,
                    clean=(clean or None) if room == rooms[0][1] else None,
                    format=None if format == AS_GIVEN else format,
                )
                settings = enhancing(asked, server.offers()) | {"preview": True}
                jobs.append(await asyncio.to_thread(submitted, server, path, "enhance", settings, client_of(request)))
            yield progress("waiting"), "", ""
            async for text in following(server, jobs):
                yield text, gr.skip(), gr.skip()
        except ValueError as error:
            yield progress(" ".join(str(error).split())), "", ""
            return
        finally:
            for job in jobs:
                server.jobs.cancel(job)  # those that are not over: the page is gone
        yield (progress(_summary(jobs)), *_shown(jobs))

    asked = [files, room, adapter, scale, strength, clean, format]
    go.click(enhance, asked, [status, view, results], **PRIVATE)

    stop.click(canceller(server), None, None, queue=False, **PRIVATE)
    page.unload(canceller(server))

    def of_room(room: str) -> tuple[Any, Any, Any]:
        enlarges = room == rooms[0][1]
        return gr.Dropdown(names(room), value=AUTO), gr.Number(visible=enlarges), gr.Slider(visible=enlarges)

    room.change(of_room, room, [adapter, scale, clean], **PRIVATE)
    page.load(of_room, room, [adapter, scale, clean], **PRIVATE)


def _summary(jobs: list[Job]) -> str:
    done = sum(job.state is State.DONE for job in jobs)
    if any(job.state is State.CANCELLED for job in jobs):
        return f"Cancelled; {done} of {len(jobs)} done." if done else "Cancelled."
    return "Done." if done == len(jobs) else f"{done} of {len(jobs)} done; the others say why below."


def _shown(jobs: list[Job]) -> tuple[str, str]:
    """Before and after, and where to download."""
    done = [job for job in jobs if job.state is State.DONE]
    said = [f"{job.source.name}: {job.error}" for job in jobs if job.error]
    said += [f"{job.source.name}: {line}" for job in done for line in job.result["said"]]
    views = []
    for job in done:
        before, after = (address(job, name) for name in job.result["preview"])
        views.append(slider(before, after, job.source.name))
    named = {job.result["files"][0]: address(job, job.result["files"][0]) for job in done}
    if len(done) > 1:
        named = {"all as a zip": f"/api/zip?{urlencode([('job', job.id) for job in done])}"} | named
    return "".join(views), links(named, said)
