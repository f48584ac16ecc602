"""Who may come in, and what a page may load: before every door of the server."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from lorgnette.web.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "lorgnette-token"
OPEN = ("/health",)
HEADERS = {
    # Nothing is loaded from elsewhere, whatever the page's own code would like to.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}


class Guard:
    """Around an ASGI application: the token, and pages of others that would use the server behind a person's back.

    A page elsewhere can have a browser send requests to 127.0.0.1: what comes with the name of another host (DNS
    rebinding) or from another page (`Origin`) is refused.

    Args:
        app: what is guarded.
        settings: of the server.
    """

    def __init__(self, app: App, settings: Settings):
        self._app, self._settings = app, settings
        self._token = None if settings.token is None else settings.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def answered(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        if reason := self._foreign(headers, scope):
            return await _refuse(scope, receive, answered, 403, reason)
        if self._token is not None and scope["path"] not in OPEN:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            if scope["type"] == "http" and scope["method"] == "GET" and self._is_token(query.pop("token", "")):
                return await _let_in(scope, answered, query, self._settings.token or "")
            if not self._knows_token(headers):
                reason = "a token is needed: as 'Authorization: Bearer TOKEN', or once as ?token=TOKEN in a browser"
                return await _refuse(scope, receive, answered, 401, reason)
        await self._app(scope, receive, answered)

    def _foreign(self, headers: dict[str, str], scope: Scope) -> str:
        host = headers.get("host", "")
        if is_loopback(self._settings.host) and not is_loopback(_name(host)):
            return "this server answers to 127.0.0.1 and localhost alone"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "the request comes from a page of another server"
        return ""

    def _knows_token(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        return (kind.lower() == "bearer" and self._is_token(given.strip())) or (
            cookie is not None and self._is_token(cookie.value)
        )

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _let_in(scope: Scope, send: Send, query: dict[str, str], token: str) -> None:
    """The browser keeps the token as a cookie, and the address bar does not."""
    where = "/" + quote(scope["path"].lstrip("/")) + (f"?{urlencode(query)}" if query else "")
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", where.encode()), (b"set-cookie", cookie.encode())]
    await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        return await send({"type": "websocket.close", "code": 1008, "reason": reason})
    body = f'{{"detail": "{reason}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
