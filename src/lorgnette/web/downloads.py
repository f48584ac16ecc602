"""Results on their way to a client: held meanwhile, so that they are not forgotten under its hands."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from lorgnette.web.jobs import Job
from lorgnette.web.server import Server

LONGEST = 4096
"""Characters of a header that every client takes."""


def sent(job: Job, name: str, forget: Callable[[Job], None] | None = None) -> FileResponse:
    """A file of a job that is held; when it was sent the job is given free, and forgotten where that is said how.

    What was chosen, left out or assumed goes along in the header `X-Said`, a JSON list in ASCII.
    """

    def free() -> None:
        job.held -= 1
        if forget is not None:
            forget(job)

    shown = name in job.result.get("preview", [])  # in a page, by what it is; all else is for the disk
    return FileResponse(
        job.folder / name,
        filename=name,
        media_type=None if shown else "application/octet-stream",
        content_disposition_type="inline" if shown else "attachment",
        headers={"X-Said": header(job.result.get("said", []))},
        background=BackgroundTask(free),
    )


def header(said: list[str]) -> str:
    """Sentences as a JSON list in ASCII, with as many of them as a header may be long."""
    fitting = said
    while len(text := json.dumps(fitting)) > LONGEST:
        fitting = [*fitting[:-2], "and more: GET /api/jobs/ID has all"] if len(fitting) > 1 else []
    return text


async def zipped(jobs: list[Job], server: Server) -> FileResponse:
    """The results of jobs in one file, under their names; of two that are the same, the second gets a number.

    Raises:
        Full: the disk has no room for it.
    """
    size = sum((job.folder / name).stat().st_size for job in jobs for name in job.result["files"])
    server.jobs.reserve(size)
    handle, path = tempfile.mkstemp(suffix=".zip", dir=server.home)
    os.close(handle)
    for job in jobs:
        job.held += 1

    def free() -> None:
        Path(path).unlink(missing_ok=True)
        server.jobs.release(size)
        for job in jobs:
            job.held -= 1

    try:
        await asyncio.to_thread(_pack, Path(path), jobs)
    except BaseException:
        free()
        raise
    return FileResponse(
        path, filename="lorgnette.zip", media_type="application/octet-stream", background=BackgroundTask(free)
    )


def _pack(path: Path, jobs: list[Job]) -> None:
    seen: Counter[str] = Counter()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # pictures are packed already
        for job in jobs:
            for name in job.result["files"]:
                seen[name] += 1
                again = f"{Path(name).stem}-{seen[name]}{Path(name).suffix}" if seen[name] > 1 else name
                archive.write(job.folder / name, again)
