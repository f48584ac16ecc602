"""Strangers reach what nodes need, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import io
import zipfile
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.federate.deploy.folder import APP_NAME
from lorgnette.federate.flower.guard import KEY_HEADER, OnlyNodes, only_its_own, own_app_only, same_app

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


@pytest.mark.parametrize("inside", [[7], [7, 7], [1], [8], [7, 8]])
def test_a_node_sends_in_its_own_name_alone(inside: list[int]):
    messages = [SimpleNamespace(metadata=SimpleNamespace(src_node_id=number)) for number in inside]
    asking = SimpleNamespace(node=SimpleNamespace(node_id=7), messages_list=messages)
    push = only_its_own(lambda request, state: (request, state))
    if set(inside) == {7}:
        assert push(request=asking, state="kept") == (asking, "kept")
    else:
        with pytest.raises(PermissionError):
            push(request=asking, state="kept")


def bundle(files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


APP = {"pyproject.toml": b"[project]", "federation_app.py": b"from lorgnette import x"}


def test_the_own_app_is_known_however_it_is_packed():
    turned = dict(reversed(APP.items()))
    assert same_app(bundle(turned, zipfile.ZIP_STORED), bundle(APP))


@pytest.mark.parametrize(
    "other",
    [
        bundle({**APP, "federation_app.py": b"import os"}),
        bundle({**APP, "lorgnette.py": b"import os"}),
        bundle({"pyproject.toml": b"[project]"}),
        bundle({**APP, "federation_app.py": bytes(2**21)}),
        bundle(APP)[:-30],
        b"",
        b"PK",
    ],
)
def test_another_program_is_not_run(other: bytes):
    assert not same_app(other, bundle(APP))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 250), st.integers(1, 255))
def test_a_damaged_bundle_is_refused_or_the_same(place: int, flip: int):
    """A node must not end because of what a server sends it."""
    damaged = bytearray(bundle(APP))
    damaged[place % len(damaged)] ^= flip
    if same_app(bytes(damaged), bundle(APP)):  # a date, say
        with zipfile.ZipFile(io.BytesIO(damaged)) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == APP


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        (*APP_NAME, True),
        (APP_NAME[0], f"{APP_NAME[1]}.01234567/../../../../../../tmp/evil", False),
        ("lorgnette/../evil", APP_NAME[1], False),
    ],
)
def test_a_run_cannot_lead_a_node_to_another_folder(name: str, version: str, fits: bool):
    """Flower takes the folder of the program from the run's name and version, which are the server's to choose."""
    run, fab = SimpleNamespace(fab_id=name, fab_version=version), SimpleNamespace(content=bundle(APP))
    get_run, get_fab = own_app_only(lambda run_id: run, lambda fab_hash, run_id: fab, bundle(APP), PermissionError)
    assert get_fab("hash", 1) is fab
    if fits:
        assert get_run(1) is run
    else:
        with pytest.raises(PermissionError):
            get_run(1)
    fab.content = b"PK"
    with pytest.raises(PermissionError):
        get_fab("hash", 1)
