"""Start the server: sockets, certificate, token and greeting."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import ssl
from pathlib import Path
from urllib.parse import quote

import psutil
import uvicorn
from starlette.types import ASGIApp

from bench.core import access
from bench.core.errors import EarbenchError
from bench.serve.gate import TokenGate

APP = Path(__file__).resolve().parents[2] / "app.py"
TOKEN_VARIABLE = "EARBENCH_TOKEN"
MIN_TOKEN_CHARACTERS = 16


class ServeError(EarbenchError):
    """The dashboard can't be served as asked. The message says what was given and what is allowed."""


def application(app: Path, token: str | None, port: int) -> ASGIApp:
    """Return Streamlit's ASGI application for a script, behind the token if there is one.

    Streamlit allows one script per process. It reads `.streamlit/config.toml` beside the script, whatever the working
    directory is.
    """
    from streamlit import config
    from streamlit.starlette import App

    streamlit = App(app)
    # Parse it now: parsing enables uvicorn's loggers again, and the access log would contain the token.
    config.get_option("logger.level")
    access.set_protected(token is not None)
    # Wrap `App` instead of using its `middleware` argument: no code of Streamlit runs before the check.
    return streamlit if token is None else TokenGate(streamlit, token, port)


def serve(*, lan: bool = False, port: int = 8501, tls: tuple[Path, Path] | None = None, app: Path = APP) -> None:
    """Serve the dashboard until Ctrl-C.

    Listens on 127.0.0.1 without a token or, with `lan`, on all of the device's addresses with one: `EARBENCH_TOKEN`,
    else a new one. `tls` is a certificate and its key, as PEM files. Raises ServeError.
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


def _run(asgi: ASGIApp, sockets: list[socket.socket], tls: tuple[Path, Path] | None = None) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            asgi,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
            ws="websockets-sansio",  # Streamlit's own choice
            lifespan="on",  # an application that can't start ends the server, instead of failing each request
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    logging.getLogger("uvicorn.access").disabled = True  # it logs URLs, and the first one contains the token
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        pass  # Ctrl-C is the normal end; uvicorn has shut down by now and raises the signal again
    except SystemExit as error:  # uvicorn exits if the application can't start
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
    for label, path in (("certificate", certificate), ("key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ServeError(
                f"The {label} {path} can't be read: {error.strerror}. Allowed: a file in PEM form."
            ) from error
    try:
        # With an empty password, OpenSSL raises an error instead of prompting for one during the start.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ServeError(
            f"The certificate {certificate} and the key {key} don't work: {error}. Allowed: a certificate and its own "
            "key, in PEM form, without a password."
        ) from error


def _listen(port: int, *, lan: bool) -> list[socket.socket]:
    """Open the listening sockets, IPv4 first. IPv6 is left out where the device has none."""
    addresses = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")] if lan else [(socket.AF_INET, "127.0.0.1")]
    sockets: list[socket.socket] = []
    for family, host in addresses:
        try:
            s = socket.create_server((host, port), family=family, backlog=128)
            # Accepted connections inherit this. asyncio sets it only on sockets that it creates itself, and without it
            # a response whose head and body are written separately waits 40 ms.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.append(s)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES):
                continue
            for s in sockets:
                s.close()
            if error.errno == errno.EADDRINUSE:
                raise ServeError(f"Port {port} is in use on this device. Choose another one with --port.") from error
            raise ServeError(f"Port {port} can't be opened: {os.strerror(error.errno or 0)}.") from error
    return sockets


def _greeting(token: str | None, port: int, families: list[int], secure: bool) -> str:
    """Return the text that is printed at the start."""
    scheme = "https" if secure else "http"
    if token is None:
        return f"Earbench is open on this device alone: {scheme}://localhost:{port}\nStop it with Ctrl-C."
    urls = [f"    {scheme}://{host}:{port}/?token={quote(token, safe='')}" for host in [*_hosts(families), "localhost"]]
    lines = [
        "Earbench is open on this device's addresses. Open one of these:",
        "",
        *urls,
        "",
        "The token is a password: anyone who has it can use this dashboard and see its results.",
    ]
    if not secure:
        lines.append(
            "Nothing is encrypted on the way, and browsers give a page the microphone only over https (--tls CERT KEY) "
            f"or on localhost: `ssh -L {port}:localhost:{port} THIS-DEVICE` brings the localhost URL to a laptop."
        )
    return "\n".join([*lines, "Stop it with Ctrl-C."])


def _hosts(families: list[int]) -> list[str]:
    """Return the device's addresses as written in a URL, without loopback and link-local IPv6 (it needs a scope)."""
    up = {name for name, nic in psutil.net_if_stats().items() if nic.isup}
    active = [a for name, addresses in psutil.net_if_addrs().items() if name in up for a in addresses]
    v4 = [a.address for a in active if a.family == socket.AF_INET and not a.address.startswith("127.")]
    v6 = [a.address for a in active if a.family == socket.AF_INET6 and not a.address.startswith("fe80:")]
    return v4 + ([f"[{a}]" for a in v6 if a != "::1"] if socket.AF_INET6 in families else [])
