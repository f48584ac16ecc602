"""What Flower's server leaves open: who may ask it for what, and in whose name."""

# pyright: reportMissingImports=false
# (flwr is optional)

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Collection
from typing import Any

KEY_HEADER = b"flwr-public-key"  # in which Flower's nodes name theirs


def guarded(app: Any, keys: Collection[bytes]) -> OnlyNodes:
    """Flower's server (a FastAPI app), which then answers other machines only what nodes with these keys may ask.

    Args:
        app: Flower's.
        keys: public keys of the sites, PEM.
    """
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY

    parsed = PROTOBUF_REQUEST_DEPENDENCY.dependency
    app.dependency_overrides[parsed] = in_its_own_name(parsed)
    return OnlyNodes(app, keys)


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


def in_its_own_name(parsed: Any) -> Any:
    """How the server's routes get their parsed request, such that a node sends messages in its own name alone.

    Flower checks that a request is signed by the node that it names, but takes what is inside for an answer of any
    node, or for work that the server gives out, as the message itself claims.

    Args:
        parsed: Flower's own way, (HTTP request) -> parsed request.
    """
    from fastapi import HTTPException, Request
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    def checked(request: Request) -> Any:
        found = parsed(request)
        if isinstance(found, PushMessagesRequest):
            sender = found.node.node_id
            if any(message.metadata.src_node_id != sender for message in found.messages_list):
                raise HTTPException(403, f"node {sender} sent a message in another's name")
        return found

    checked.__annotations__["request"] = Request  # FastAPI looks for it outside of this function
    return checked


def _is_local(scope: Any) -> bool:
    own, peer = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    try:
        return ipaddress.ip_address(peer[0]).is_loopback or (bool(peer[0]) and peer[0] == own[0])
    except ValueError:
        return False
