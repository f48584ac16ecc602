"""Strangers reach what nodes need, and nothing else."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from lorgnette.federate.flower.guard import KEY_HEADER, OnlyNodes

KEY = b"-----BEGIN PUBLIC KEY-----"


def asked(path: str, peer: str | None, kind: str = "http", own: str = "10.0.0.5", key: bytes = KEY) -> str:
    """'passed', or the status or the event that the guard sent instead."""
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    headers = [(b"host", b"fed.example.org"), (KEY_HEADER, base64.b64encode(key))]
    scope = {
        "type": kind,
        "path": path,
        "headers": headers,
        "client": None if peer is None else (peer, 5),
        "server": (own, 8000),
    }
    asyncio.run(OnlyNodes(app, [KEY])(scope, None, send))
    assert len(reached) + bool(sent) == 1
    return "passed" if reached else str(sent[0].get("status", sent[0]["type"]))


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/health"])
def test_nodes_get_through(path: str):
    assert asked(path, "203.0.113.9") == "passed"


@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/", "/v1/fleet",
     "//v1/fleet/", "/V1/fleet/x", "/health/../v1/control/start-run", "/v1/responses"],
)  # fmt: skip
def test_strangers_start_no_runs_and_register_no_nodes(path: str):
    assert asked(path, "203.0.113.9") == "403"
    assert asked(path, "2001:db8::1") == "403"
    assert asked(path, None) == "403"
    assert asked(path, "not an address") == "403"


def test_who_names_no_key_of_a_site_is_not_listened_to():
    assert asked("/v1/fleet/push-object", "203.0.113.9", key=b"another") == "403"
    assert asked("/health", "203.0.113.9", key=b"another") == "passed"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.5"])
def test_this_machine_may_do_anything(peer: str):
    assert asked("/v1/control/start-run", peer) == "passed"


def test_other_kinds_of_connections():
    assert asked("/v1/fleet/x", "203.0.113.9", "websocket") == "websocket.close"
    assert asked("", None, "lifespan") == "passed"
