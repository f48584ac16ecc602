"""What a client sends, into a file: counted as it comes, and given up where it stands still."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from fastapi import HTTPException, Request

from lorgnette.web.server import Server


async def received(request: Request, server: Server, name: str) -> Path:
    """The body of a request as a file in a new folder of its own.

    Args:
        request: its body is the file itself.
        server: whose limits count.
        name: of the file, as the client calls it.

    Raises:
        HTTPException: 400 nothing came, 408 it stood still, 413 it is too large.
        Full: the disk has no room for it.
        ClientDisconnect: the client is gone.
    """
    limits = server.settings.limits
    said = request.headers.get("content-length", "")
    expected = int(said) if said.isdecimal() else limits.upload_bytes
    too_large = HTTPException(413, f"the upload is larger than the {limits.upload_bytes:,} bytes that are taken here")
    if expected > limits.upload_bytes:
        raise too_large
    server.jobs.reserve(expected)
    source = server.new_source(name)
    try:
        with source.open("wb") as file:
            pieces, came = aiter(request.stream()), 0
            while (piece := await asyncio.wait_for(anext(pieces, None), limits.stalled_seconds)) is not None:
                came += len(piece)
                if came > limits.upload_bytes:
                    raise too_large
                file.write(piece)
        if not came:
            raise HTTPException(400, "nothing was sent: the file itself is the body of the request")
    except BaseException as error:
        shutil.rmtree(source.parents[1], ignore_errors=True)
        if isinstance(error, TimeoutError):
            raise HTTPException(408, f"nothing came for {limits.stalled_seconds:g} s") from None
        raise
    finally:
        server.jobs.release(expected)
    return source
