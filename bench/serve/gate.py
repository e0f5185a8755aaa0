"""ASGI middleware that lets no request pass without the token.

Streamlit has no authentication, so on the network this middleware protects everything that it serves: pages,
`/_stcore`, media, uploads, static files and the WebSocket.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_REFUSAL = (
    "This Earbench asks for its token. Open the URL with ?token=... that was printed in the terminal where it was "
    "started; after a restart there is a new one."
)
_REFUSAL_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Earbench: token needed</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1.1rem/1.6 sans-serif; max-width: 36rem; margin: 15vh auto;
padding: 0 1rem }}</style>
<h1>Token needed</h1>
<p>{_REFUSAL}</p>
</html>
"""


class TokenGate:
    """ASGI middleware: refuses what comes without the token, whatever its route or method."""

    def __init__(self, app: Application, token: str, port: int) -> None:
        """Wrap `app`. `port` is the one in the browsers' addresses."""
        self._app = app
        self._token = token.encode()
        # Browsers don't separate cookies by port. With the port in its name, two servers on one device keep theirs
        # apart.
        self._cookie = f"earbench-{port}".encode()
        # Derived from the token, so that a leaked cookie does not reveal the token itself.
        self._ticket = hmac.new(self._token, b"earbench cookie", "sha256").hexdigest().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, exchange the token of a URL for the cookie, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._admitted(scope) and _same_origin(scope):
                await self._app(scope, receive, send)
            else:
                await receive()  # the handshake
                await send({"type": "websocket.close", "code": 1008})  # before accepting: the server answers 403
        elif scope["type"] == "http":
            if scope["method"] in ("GET", "HEAD") and self._token_in_url(scope):
                await self._welcome(scope, send)
            elif self._admitted(scope):
                await self._app(scope, receive, send)
            else:
                await _refuse(scope, send)

    def _token_in_url(self, scope: Scope) -> bool:
        tokens = [unquote_to_bytes(p.removeprefix(b"token=")) for p in _query(scope) if p.startswith(b"token=")]
        return any(hmac.compare_digest(token, self._token) for token in tokens)

    def _admitted(self, scope: Scope) -> bool:
        """Return whether the request has the cookie or, from a script, `Authorization: Bearer TOKEN`."""
        admitted = False
        for name, value in scope["headers"]:
            if name == b"cookie":
                for pair in value.split(b";"):
                    key, _, ticket = pair.strip().partition(b"=")
                    admitted |= key == self._cookie and hmac.compare_digest(ticket, self._ticket)
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                admitted |= hmac.compare_digest(value[7:].strip(), self._token)
        return admitted

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Set the cookie and redirect to the same page without the token, which would stay in the address bar."""
        query = b"&".join(p for p in _query(scope) if not p.startswith(b"token="))
        # Exactly one slash: `//host/` would redirect to another host.
        location = quote("/" + scope["path"].lstrip("/")).encode() + (b"?" + query if query else b"")
        # Lax, not Strict: a Strict cookie is withheld after a click on the URL in an e-mail or a chat.
        cookie = self._cookie + b"=" + self._ticket + b"; Path=/; HttpOnly; SameSite=Lax"
        if scope["scheme"] == "https":
            cookie += b"; Secure"
        await _answer(send, 303, [(b"location", location), (b"set-cookie", cookie)])


def _query(scope: Scope) -> list[bytes]:
    query: bytes = scope["query_string"]
    return query.split(b"&")


def _same_origin(scope: Scope) -> bool:
    """Return whether a WebSocket comes from a page of this server, or from a client that is not a browser.

    Browsers don't separate cookies by port, so a page of another server on this device would send ours, and Streamlit
    accepts any port of this device.
    """
    headers = dict(scope["headers"])
    origin: bytes | None = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


async def _refuse(scope: Scope, send: Send) -> None:
    """Answer 401 with a sentence, the same for every route, so that it does not reveal which routes exist."""
    html = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    headers = [
        (b"www-authenticate", b'Bearer realm="Earbench"'),
        (b"content-type", b"text/html; charset=utf-8" if html else b"text/plain; charset=utf-8"),
        (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await _answer(
        send, 401, headers, b"" if scope["method"] == "HEAD" else (_REFUSAL_PAGE if html else _REFUSAL).encode()
    )


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    common = [(b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer")]
    length = [(b"content-length", str(len(body)).encode())] if body else []
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common, *length]})
    await send({"type": "http.response.body", "body": body})
