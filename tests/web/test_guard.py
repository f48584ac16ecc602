"""Who may come in: the token, and pages elsewhere that would use the server behind a person's back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lorgnette.web.guard import Guard
from lorgnette.web.settings import Settings

TOKEN = "a-token-of-tests-0123"


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-inner", b"yes")]})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(
    settings: Settings, path: str = "/", method: str = "GET", query: str = "", host: str = "127.0.0.1:7860", **more: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = {"host": host} | {name.replace("_", "-"): value for name, value in more.items()}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("utf-8")) for name, value in headers.items()],
    }
    asyncio.run(Guard(_inner, settings)(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


HERE = Settings()
THERE = Settings(host="0.0.0.0", token=TOKEN)


def test_this_machine_needs_no_token_and_gets_a_page_that_loads_nothing_from_elsewhere():
    status, headers = ask(HERE)
    assert (status, headers["x-inner"]) == (200, "yes")
    sources = headers["content-security-policy"].partition(";")[0].split()
    assert sources[0] == "default-src"
    assert not [one for one in sources[1:] if "http" in one or "*" in one]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::1", "10.0.0.3"]
)
def test_another_name_for_this_machine_is_refused(host: str):
    assert ask(HERE, host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "[::1]:7860"])
def test_its_own_names_work(host: str):
    assert ask(HERE, host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:7861", "http://localhost:7860"])
def test_a_page_of_another_server_is_refused(origin: str):
    assert ask(HERE, method="POST", origin=origin)[0] == 403
    assert ask(HERE, method="POST", origin="http://127.0.0.1:7860")[0] == 200


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"authorization": "Bearer wrong-token-of-tests"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer schlüssel"},
        {"cookie": "lorgnette-token=wrong"},
        {"cookie": "lorgnette-token"},
        {"query": "token=wrong"},
        {"query": f"token={TOKEN}", "method": "POST"},
    ],
)
def test_without_the_token_nothing_but_health_is_answered(given: dict[str, str]):
    status, headers = ask(THERE, "/api/adapters", host="box:7860", **given)
    assert (status, headers["www-authenticate"], "x-inner" in headers) == (401, "Bearer", False)
    assert ask(THERE, "/metrics", host="box:7860", **given)[0] == 401
    assert ask(THERE, "/health", host="box:7860", **given)[0] == 200


@pytest.mark.parametrize("given", [{"authorization": f"Bearer {TOKEN}"}, {"cookie": f"a=b; lorgnette-token={TOKEN}"}])
def test_with_the_token_one_comes_in(given: dict[str, str]):
    assert ask(THERE, "/api/adapters", host="box:7860", **given)[0] == 200


def test_a_browser_keeps_the_token_as_a_cookie():
    status, headers = ask(THERE, "/some page", query=f"token={TOKEN}&theme=dark", host="box:7860")
    assert (status, headers["location"]) == (303, "/some%20page?theme=dark")
    assert headers["set-cookie"] == f"lorgnette-token={TOKEN}; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize("path", ["//evil.example/", "/\r\nset-cookie: a=b"])
def test_the_way_in_leads_nowhere_else(path: str):
    _, headers = ask(THERE, path, query=f"token={TOKEN}", host="box:7860")
    assert headers["location"].startswith("/")
    assert not headers["location"].startswith("//")
    assert "\n" not in headers["location"]
