"""What Flower leaves open: who may ask its server for what, and whose program a node runs.

Imports neither flwr nor torch.
"""

from __future__ import annotations

import io
import ipaddress
import zipfile
from typing import Any


class OnlyNodes:
    """ASGI middleware: from other machines only the paths that nodes need; anything else is for this machine.

    Flower 1.41 serves three interfaces on one port. That of the nodes checks their keys; the other two, which
    register nodes and start runs (and so send code to every site), check nothing.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or _is_for_nodes(scope) or _is_local(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _is_for_nodes(scope: Any) -> bool:
    return scope["type"] == "http" and (scope["path"].startswith("/v1/fleet/") or scope["path"] == "/health")


def _is_local(scope: Any) -> bool:
    own, peer = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    try:
        return ipaddress.ip_address(peer[0]).is_loopback or (bool(peer[0]) and peer[0] == own[0])
    except ValueError:
        return False


def same_app(bundle: bytes, own: bytes, most: int = 2**20) -> bool:
    """Whether two of Flower's app bundles (zip files) hold the same files, however they are packed.

    Args:
        bundle: what a server sent.
        own: what a node expects.
        most: bytes that all files of a bundle may have together.
    """
    try:
        return _files(bundle, most) == _files(own, most)
    except Exception:  # damaged bytes bring up many: BadZipFile, zlib.error, EOFError, NotImplementedError, ...
        return False


def _files(bundle: bytes, most: int) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > most:
            raise ValueError("too large")
        return sorted((entry.filename, archive.read(entry)) for entry in entries)
