"""What a server that only this machine's user should reach has to refuse, as ASGI middleware.

A web page from elsewhere can make a browser send requests to 127.0.0.1. It may not read the answers (there are no CORS
headers), and it can't get at them by a name of its own either (DNS rebinding: the ``Host`` header is checked). What
it posts is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 32 * 2**20  # bytes

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """Refuses foreign hosts and origins, and bodies above ``MAX_BODY``; adds the headers for security.

    Args:
        app: what is guarded.
        port: that the server listens on; part of the hosts that are allowed.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        names = ("127.0.0.1", "localhost")
        self.hosts: set[str] = {f"{name}:{port}" for name in names}
        if port == 80:
            self.hosts |= {*names}
        self.origins: set[str] = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send_guarded, *refusal)
            return
        received = 0

        async def receive_guarded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                raise HTTPException(413, _TOO_LARGE, {"connection": "close"})  # what is left is not read
            return message

        await self.app(scope, receive_guarded, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if [host.lower() for host in _values(headers, b"host")] not in [[host] for host in self.hosts]:
            return 403, "this server answers to its own address only"
        if scope["method"] not in ("GET", "HEAD"):
            # browsers name the origin of every such request; programs, which nobody can lure, need not
            origins = list(_values(headers, b"origin"))
            sites = list(_values(headers, b"sec-fetch-site"))
            if not set(origins) <= self.origins or not set(sites) <= {"same-origin", "none"}:
                return 403, "requests from other pages are refused"
        for length in _values(headers, b"content-length"):
            if not length.isdecimal():
                return 400, "Content-Length must be a number"
            if int(length) > MAX_BODY:
                return 413, _TOO_LARGE
        return None


_TOO_LARGE = f"at most {MAX_BODY // 2**20} MB are taken at once; make a smaller copy"


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> Iterable[str]:
    return (value.decode("latin-1") for key, value in headers if key == name)


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode() + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
