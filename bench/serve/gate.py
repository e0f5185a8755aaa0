"""ASGI middleware that lets no request pass without the token.

Streamlit has no authentication, so on the network this middleware protects everything that it serves: pages,
`/_stcore`, media, uploads, static files and the WebSocket. It fails closed: what can't be judged is refused.
"""

from __future__ import annotations

import hmac
from urllib.parse import quote, unquote_to_bytes

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_POLICY_VIOLATION = 1008  # the close code of a refused WebSocket
_PRIVATE = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
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

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """Wrap `app`. `port` is the one in the browsers' addresses."""
        self._app = app
        self._token = token.encode()
        # Browsers don't separate cookies by port. With the port in its name, two servers on one device keep theirs
        # apart.
        self._cookie = f"earbench-{port}"
        # Derived from the token, so that a leaked cookie does not reveal the token itself.
        self._ticket = hmac.new(self._token, b"earbench cookie", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, exchange the token of a URL for the cookie, or refuse."""
        answer: ASGIApp | None = None
        if scope["type"] == "lifespan":
            answer = self._app
        elif scope["type"] == "websocket":
            answer = self._app if self._admits(scope) else WebSocketClose(_POLICY_VIOLATION)  # answered with 403
        elif scope["type"] == "http":
            request = Request(scope)
            if self._brings_token(request):
                answer = self._welcome(request)
            else:
                answer = self._app if self._admits(scope) else _refusal(request)
        if answer:
            await answer(scope, receive, send)

    def _brings_token(self, request: Request) -> bool:
        """Return whether this opens a page by a URL with the token. False if that can't be told."""
        try:
            return request.method in ("GET", "HEAD") and any(
                hmac.compare_digest(unquote_to_bytes(part.removeprefix("token=")), self._token)
                for part in _query(request)
                if part.startswith("token=")
            )
        except Exception:
            return False

    def _admits(self, scope: Scope) -> bool:
        """Return whether a request may pass. False if that can't be told."""
        try:
            connection = HTTPConnection(scope)
            return self._is_authorised(connection) and (scope["type"] == "http" or _is_same_origin(connection))
        except Exception:
            return False

    def _is_authorised(self, connection: HTTPConnection) -> bool:
        """Return whether it has the cookie or, from a script, `Authorization: Bearer TOKEN`."""
        # Not by `connection.cookies`: of several cookies with one name, set for several paths, it keeps only the last.
        pairs = [pair.strip() for header in connection.headers.getlist("cookie") for pair in header.split(";")]
        tickets = [value for name, _, value in (pair.partition("=") for pair in pairs) if name == self._cookie]
        bearer = [
            value[7:].strip() for value in connection.headers.getlist("authorization") if value[:7].lower() == "bearer "
        ]
        # Bytes, because `compare_digest` takes no text beyond ASCII. A list, so that each is compared.
        return any(
            [hmac.compare_digest(ticket.encode(), self._ticket.encode()) for ticket in tickets]
            + [hmac.compare_digest(token.encode(), self._token) for token in bearer]
        )

    def _welcome(self, request: Request) -> Response:
        """Set the cookie and redirect to the same page without the token, which would stay in the address bar."""
        query = "&".join(part for part in _query(request) if not part.startswith("token="))
        # Exactly one slash: `//host/` would redirect to another host.
        location = quote("/" + request.scope["path"].lstrip("/")) + (f"?{query}" if query else "")
        response = RedirectResponse(location, 303, _PRIVATE)
        # Lax, not Strict: a Strict cookie is withheld after a click on the URL in an e-mail or a chat.
        secure = request.scope["scheme"] == "https"
        response.set_cookie(self._cookie, self._ticket, path="/", httponly=True, samesite="lax", secure=secure)
        return response


def _query(request: Request) -> list[str]:
    """Return the parts of the query as they came: `request.query_params` would decode a plus sign to a space."""
    query: bytes = request.scope["query_string"]
    return query.decode("latin-1").split("&")


def _is_same_origin(connection: HTTPConnection) -> bool:
    """Return whether a WebSocket comes from a page of this server, or from a client that is not a browser.

    Browsers don't separate cookies by port, so a page of another server on this device would send ours, and Streamlit
    accepts any port of this device.
    """
    host = connection.headers.get("host")
    return all(origin.partition("://")[2] == host for origin in connection.headers.getlist("origin"))


def _refusal(request: Request) -> Response:
    """Return a 401 with a sentence, the same for every route, so that it does not reveal which routes exist."""
    html = any("text/html" in value for value in request.headers.getlist("accept"))
    kind, text = (HTMLResponse, _REFUSAL_PAGE) if html else (PlainTextResponse, _REFUSAL)
    headers = {
        "www-authenticate": 'Bearer realm="Earbench"',
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
        "x-content-type-options": "nosniff",
    }
    return kind("" if request.method == "HEAD" else text, 401, headers | _PRIVATE)
