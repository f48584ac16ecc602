"""What the tabs share: jobs of a page that is open, and how far they are."""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lorgnette.web.jobs import OVER, Job, State
from lorgnette.web.page.look import progress, standing
from lorgnette.web.server import Server

LOOK_SECONDS = 0.2
PRIVATE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
"""Of every event: the server's own queue is behind it, its API is another, and the tabs say themselves how it goes."""


def client_of(request: gr.Request) -> str:
    """A page that is open is a client of its own."""
    return f"page {request.session_hash}"


def canceller(server: Server) -> Callable[[gr.Request], None]:
    """What ends all jobs of a page."""

    def cancel(request: gr.Request) -> None:
        for job in server.jobs.of(client_of(request)):
            server.jobs.cancel(job)

    return cancel


def dropped(server: Server, path: str) -> Path:
    """A file that was dropped on the page; a ValueError for one that lies elsewhere, whatever a request says."""
    found = Path(path).resolve()
    if not found.is_relative_to((server.home / "page").resolve()):
        raise ValueError(f"{Path(path).name} was not dropped on this page")
    return found


def submitted(server: Server, path: str, verb: str, settings: dict[str, Any], client: str, seconds: float = 0) -> Job:
    """A job on a file that was dropped on the page, or made of such.

    Raises:
        Full: there is no room for it.
        Stopping: the server stops.
    """
    file = dropped(server, path)
    size = file.stat().st_size
    server.jobs.reserve(size)
    try:
        source = server.new_source(file.name)
        shutil.copyfile(file, source)
        return server.submit(client, verb, settings, source, seconds)
    finally:
        server.jobs.release(size)


async def following(server: Server, jobs: list[Job], unit: str = "tile") -> AsyncIterator[str]:
    """How far jobs are, in turn, until all are over."""
    last = ""
    for number, job in enumerate(jobs, 1):
        while job.state not in OVER:
            many = f"{number} of {len(jobs)}, " * (len(jobs) > 1)
            part = job.done / job.total if job.total else 0
            words = f"{job.source.name}: {many}{standing(job, server.jobs, unit)}"
            text = progress(words, number - 1 + part, len(jobs))
            if text != last:
                yield (last := text)
            await asyncio.sleep(LOOK_SECONDS)


async def worked(
    server: Server, start: Callable[[], Job], unit: str
) -> AsyncIterator[tuple[str, Job | None, list[dict[str, Any]]]]:
    """Have one job done: what is to be said, the job once it is done well, and the points of its curve so far.

    Args:
        server: does it.
        start: submits it; a ValueError of its is said.
        unit: what its pieces are called.
    """
    try:
        job = await asyncio.to_thread(start)
    except ValueError as error:
        yield progress(" ".join(str(error).split())), None, []
        return
    try:
        async for text in following(server, [job], unit):
            yield text, None, job.points
    finally:
        server.jobs.cancel(job)  # where it is not over, the page is gone
    if job.state is State.DONE:
        yield progress("Done."), job, job.points
    else:
        yield progress(job.error or "Cancelled."), None, job.points
