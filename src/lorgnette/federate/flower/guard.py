"""What Flower leaves open: who may ask its server for what, and whose program a node runs.

Imports neither flwr nor torch.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import zipfile
from collections.abc import Callable, Collection
from typing import Any

from lorgnette.federate.deploy.folder import APP_NAME

KEY_HEADER = b"flwr-public-key"  # in which Flower's nodes name theirs


class OnlyNodes:
    """ASGI middleware: from other machines only the paths that nodes need; anything else is for this machine.

    Flower 1.41 serves three interfaces on one port. That of the nodes checks their keys, but only after it has read
    the whole message into memory: whoever names no registered key is sent away before. The other two, which register
    nodes and start runs (and so send code to every site), check nothing.

    Args:
        app: Flower's.
        keys: public keys of the sites, PEM.
    """

    def __init__(self, app: Any, keys: Collection[bytes] = ()):
        self.app, self.keys = app, {base64.b64encode(key) for key in keys}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or self._is_for_nodes(scope) or _is_local(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_for_nodes(self, scope: Any) -> bool:
        if scope["type"] != "http" or scope["path"] == "/health":
            return scope["type"] == "http"
        named = any(name == KEY_HEADER and value in self.keys for name, value in scope["headers"])
        return named and scope["path"].startswith("/v1/fleet/")


def only_its_own(push: Callable[..., Any]) -> Callable[..., Any]:
    """Flower's handler of what nodes send, such that each sends in its own name alone.

    Flower checks that the request is signed by the node that it names, but takes what is inside for an answer of
    any node, or for work that the server gives out, as the message itself claims.

    Args:
        push: (request, state) -> response.
    """

    def push_own(request: Any, state: Any) -> Any:
        if any(message.metadata.src_node_id != request.node.node_id for message in request.messages_list):
            raise PermissionError(f"node {request.node.node_id} sent a message in another's name")
        return push(request=request, state=state)

    return push_own


def _is_local(scope: Any) -> bool:
    own, peer = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    try:
        return ipaddress.ip_address(peer[0]).is_loopback or (bool(peer[0]) and peer[0] == own[0])
    except ValueError:
        return False


def own_app_only(
    get_run: Callable[[int], Any], get_fab: Callable[[str, int], Any], own: bytes, refusal: type[Exception]
) -> tuple[Callable[[int], Any], Callable[[str, int], Any]]:
    """How a node asks for a run and for its program, such that it gets those of Lorgnette's app or none.

    The run matters, too: Flower looks for the program in a folder that it names after what the run says.

    Args:
        get_run: Flower's, by number.
        get_fab: Flower's, by hash and number of the run.
        own: the bundle that a node expects.
        refusal: raised where the server sends another.
    """

    def checked(found: Any, is_own: bool) -> Any:
        if not is_own:
            print("refused: the server sent another program than Lorgnette's app", flush=True)
            raise refusal
        return found

    def get_own_run(run_id: int) -> Any:
        run = get_run(run_id)
        return checked(run, (run.fab_id, run.fab_version) == APP_NAME)

    def get_own_fab(fab_hash: str, run_id: int) -> Any:
        fab = get_fab(fab_hash, run_id)
        return checked(fab, same_app(fab.content, own))

    return get_own_run, get_own_fab


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
