"""The launcher: the dashboard on this device alone, or on its network behind a token.

Streamlit asks nobody who they are, so on the network a plain ASGI middleware stands in front of everything that it
serves: pages, `/_stcore`, media, uploads, static files and the WebSocket.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import psutil
import uvicorn

APP = Path(__file__).resolve().parent.parent / "app.py"
TOKEN_VARIABLE = "EARBENCH_TOKEN"
MIN_TOKEN_CHARACTERS = 16

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

_protected = False


class ServeError(RuntimeError):
    """The dashboard can't be served as asked; the text says what came and what is allowed."""


def protected() -> bool:
    """Whether every request that reaches this process has passed the token; pages ask through `bench.ui.guard`.

    The pages' scripts run in the server's own process and find this very module in `sys.modules`. A copy of it, or a
    server that was started otherwise, says False, which refuses.
    """
    return _protected


class TokenGate:
    """ASGI middleware: without the token nothing passes, whatever the route or the method."""

    def __init__(self, app: Application, token: str, port: int) -> None:
        """Stand in front of `app`; `port` is the one that browsers know."""
        self._app = app
        self._token = token.encode()
        # Cookies know no ports: with the port in its name, two servers on one device keep theirs apart.
        self._cookie = f"earbench-{port}".encode()
        # Derived, so that a cookie which got out does not give away the token itself.
        self._ticket = hmac.new(self._token, b"earbench cookie", "sha256").hexdigest().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, trade the token of a URL for the cookie, or refuse."""
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
        given = [unquote_to_bytes(p.removeprefix(b"token=")) for p in _query(scope) if p.startswith(b"token=")]
        return any(hmac.compare_digest(g, self._token) for g in given)

    def _admitted(self, scope: Scope) -> bool:
        """Whether the cookie is there, or for scripts `Authorization: Bearer TOKEN`."""
        good = False
        for name, value in scope["headers"]:
            if name == b"cookie":
                for pair in value.split(b";"):
                    key, _, ticket = pair.strip().partition(b"=")
                    good |= key == self._cookie and hmac.compare_digest(ticket, self._ticket)
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                good |= hmac.compare_digest(value[7:].strip(), self._token)
        return good

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Set the cookie and lead on to the same page without the token, which would stay in the address bar."""
        query = b"&".join(p for p in _query(scope) if not p.startswith(b"token="))
        # One slash exactly: `//host/` would lead to another host.
        location = quote("/" + scope["path"].lstrip("/")).encode() + (b"?" + query if query else b"")
        # Lax, not Strict: a Strict cookie is withheld after a click on the URL in an e-mail or a chat.
        cookie = self._cookie + b"=" + self._ticket + b"; Path=/; HttpOnly; SameSite=Lax"
        if scope["scheme"] == "https":
            cookie += b"; Secure"
        await _answer(send, 303, [(b"location", location), (b"set-cookie", cookie)])


def application(app: Path, token: str | None, port: int) -> Application:
    """Streamlit's ASGI application for a script, behind the token where one is given.

    Streamlit allows one script a process. It reads `.streamlit/config.toml` beside the script, wherever the working
    directory is.
    """
    global _protected
    from streamlit import config  # late: the guard imports this module for one flag
    from streamlit.starlette import App

    streamlit = App(app)
    # Parsed now, since parsing turns uvicorn's loggers on again, and the access log would hold the token.
    config.get_option("logger.level")
    _protected = token is not None
    # Around `App`, not through its `middleware` argument: nothing of Streamlit's runs before the check.
    return streamlit if token is None else TokenGate(streamlit, token, port)


def serve(*, lan: bool = False, port: int = 8501, tls: tuple[Path, Path] | None = None, app: Path = APP) -> None:
    """Serve the dashboard until Ctrl-C.

    On 127.0.0.1 without a token, or with `lan` on all of the device's addresses with one: `EARBENCH_TOKEN`, else a new
    one. `tls` is a certificate and its key, in PEM form. Raises ServeError.
    """
    if not 1 <= port <= 65535:
        raise ServeError(f"Port: got {port}; allowed: a whole number from 1 to 65535.")
    token = _token() if lan else None
    if tls:
        _check_certificate(*tls)
    sockets = _listen(port, lan=lan)
    asgi = application(app, token, port)
    if tls:
        from streamlit import config

        config.set_option("server.sslCertFile", str(tls[0]))  # makes Streamlit's own cookies Secure
        config.set_option("server.sslKeyFile", str(tls[1]))
    print(_greeting(token, port, [s.family for s in sockets], tls is not None), flush=True)
    _run(asgi, sockets, tls)


def _run(asgi: Application, sockets: list[socket.socket], tls: tuple[Path, Path] | None = None) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            asgi,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
            ws="websockets-sansio",  # as Streamlit chooses
            lifespan="on",  # an application that can't start ends the server, not each request
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    logging.getLogger("uvicorn.access").disabled = True  # its lines hold the URL, and the first URL holds the token
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how it ends; uvicorn has shut down by now and raises the signal once more
    except SystemExit as error:  # uvicorn exits where the application can't start
        raise ServeError("The dashboard did not start; the lines above say why.") from error
    finally:
        for s in sockets:
            s.close()


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return secrets.token_urlsafe(32)
    if len(token) < MIN_TOKEN_CHARACTERS or not (token.isascii() and token.isprintable()):
        raise ServeError(
            f"{TOKEN_VARIABLE}: got {len(token)} characters; allowed: at least {MIN_TOKEN_CHARACTERS}, in ASCII. "
            "Without the variable, a new token is made at each start."
        )
    return token


def _check_certificate(certificate: Path, key: Path) -> None:
    for what, path in (("certificate", certificate), ("key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ServeError(
                f"The {what} {path} can't be read: {error.strerror}. Allowed: a file in PEM form."
            ) from error
    try:
        # The empty password turns OpenSSL's question for one, in the middle of a start, into an error.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ServeError(
            f"The certificate {certificate} and the key {key} don't work: {error}. Allowed: a certificate and its own "
            "key, in PEM form, without a password."
        ) from error


def _listen(port: int, *, lan: bool) -> list[socket.socket]:
    """Open the listening sockets, IPv4 first; IPv6 is left out where the device has none."""
    wanted = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")] if lan else [(socket.AF_INET, "127.0.0.1")]
    out: list[socket.socket] = []
    for family, host in wanted:
        try:
            s = socket.create_server((host, port), family=family, backlog=128)
            # What it accepts inherits this. asyncio sees to it for sockets of its own making only, and without it a
            # response whose head and body are written apart waits 40 ms.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            out.append(s)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES):
                continue
            for s in out:
                s.close()
            if error.errno == errno.EADDRINUSE:
                raise ServeError(f"Port {port} is in use on this device. Choose another one with --port.") from error
            raise ServeError(f"Port {port} can't be opened: {os.strerror(error.errno or 0)}.") from error
    return out


def _greeting(token: str | None, port: int, families: list[int], secure: bool) -> str:
    """Write what is printed at the start."""
    scheme = "https" if secure else "http"
    if token is None:
        return f"Earbench is open on this device alone: {scheme}://localhost:{port}\nStop it with Ctrl-C."
    urls = [f"    {scheme}://{host}:{port}/?token={quote(token, safe='')}" for host in [*_hosts(families), "localhost"]]
    lines = [
        "Earbench is open on this device's addresses. Open one of these:",
        "",
        *urls,
        "",
        "The token is a password: whoever has it can use this dashboard and see its results.",
    ]
    if not secure:
        lines.append(
            "Nothing is encrypted on the way, and browsers give a page the microphone only over https (--tls CERT KEY) "
            f"or on localhost: `ssh -L {port}:localhost:{port} THIS-DEVICE` brings the localhost URL to a laptop."
        )
    return "\n".join([*lines, "Stop it with Ctrl-C."])


def _hosts(families: list[int]) -> list[str]:
    """List the device's addresses as they stand in a URL, without loopback and link-local IPv6 (it needs a scope)."""
    up = {name for name, nic in psutil.net_if_stats().items() if nic.isup}
    found = [a for name, addresses in psutil.net_if_addrs().items() if name in up for a in addresses]
    v4 = [a.address for a in found if a.family == socket.AF_INET and not a.address.startswith("127.")]
    v6 = [a.address for a in found if a.family == socket.AF_INET6 and not a.address.startswith("fe80:")]
    return v4 + ([f"[{a}]" for a in v6 if a != "::1"] if socket.AF_INET6 in families else [])


def _query(scope: Scope) -> list[bytes]:
    query: bytes = scope["query_string"]
    return query.split(b"&")


def _same_origin(scope: Scope) -> bool:
    """Whether a WebSocket comes from a page of this server, or from a client that is no browser.

    Cookies know no ports, so a page of another server on this device would carry ours, and Streamlit lets any port of
    this device in.
    """
    headers = dict(scope["headers"])
    origin: bytes | None = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


async def _refuse(scope: Scope, send: Send) -> None:
    """401 with a sentence, the same for every route, so that nothing is told of which ones there are."""
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
