"""The launcher: the token gate alone, the guard alone, and real servers on loopback."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from starlette.types import Receive, Scope, Send
from streamlit import config as streamlit_config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.context import StreamlitHeaders
from streamlit.testing.v1 import AppTest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from bench.core import access
from bench.serve import gate, launcher
from bench.ui import guard

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for+tests/0123=="
QUOTED = "a-token-for%2Btests%2F0123%3D%3D"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE")
WAIT_S = 20.0

pytestmark = pytest.mark.timeout(90)


# Shared with test_lan.py: a small dashboard, its server, and a browser's side of the WebSocket.


def write_app(directory: Path) -> Path:
    """A dashboard in a page, with a download, a static file and settings beside it."""
    app = directory / "app.py"
    app.write_text(
        "import streamlit as st\n"
        "from bench.ui.guard import refuse_strangers\n"
        "refuse_strangers()\n"
        "st.write('the results')\n"
        "st.download_button('CSV', 'a,b', file_name='results.csv')\n"
        "st.file_uploader('Audio')\n"
    )
    (directory / "static").mkdir()
    (directory / "static" / "logo.txt").write_text("a logo")
    (directory / ".streamlit").mkdir()
    (directory / ".streamlit" / "config.toml").write_text(
        "[server]\nheadless = true\nfileWatcherType = 'none'\nmaxUploadSize = 1\nenableStaticServing = true\n"
        "[browser]\ngatherUsageStats = false\n"
    )
    return app


def launch(code: str) -> list[str]:
    """The command that runs some lines with the launcher at hand."""
    return [sys.executable, "-c", f"from pathlib import Path\nfrom bench.serve import launcher as serve\n{code}"]


@contextmanager
def running(
    command: list[str], log: Path, ready: str = "Stop it with Ctrl-C", env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that has printed its greeting, in a working directory that is not its own; ended in any case."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + WAIT_S
        while ready not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@contextmanager
def visit(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[tuple[str, str]]:
    """What a page shows, as raw text, and the id of the session, which stays open. `url` begins with ws or wss."""
    with connect(
        f"{url}/_stcore/stream",
        additional_headers=headers,
        subprotocols=[Subprotocol("streamlit")],
        open_timeout=WAIT_S,
        proxy=None,
        **options,
    ) as ws:
        rerun = BackMsg()
        rerun.rerun_script.query_string = ""
        ws.send(rerun.SerializeToString())
        shown, session, kind = "", "", None
        while kind != "script_finished":
            message = ForwardMsg.FromString(ws.recv(timeout=WAIT_S, decode=False))
            kind = message.WhichOneof("type")
            if kind == "new_session":
                session = message.new_session.initialize.session_id
            elif kind == "delta":
                shown += str(message.delta)
        yield shown, session


def browse(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> str:
    """What a page shows, as raw text."""
    with visit(url, headers, **options) as (shown, _):
        return shown


def ws_status(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> int:
    """The HTTP status that a WebSocket handshake gets: 101 where it is accepted."""
    try:
        with connect(
            f"{url}/_stcore/stream", additional_headers=headers, open_timeout=WAIT_S, proxy=None, **options
        ) as ws:
            assert ws.response is not None
            return int(ws.response.status_code)
    except InvalidStatus as refused:
        return int(refused.response.status_code)


def upload(client: httpx.Client, url: str, session: str, size_bytes: int, *, xsrf: bool) -> int:
    """The status of an upload, with or without the XSRF header."""
    client.get(f"{url}/_stcore/health")  # sets the XSRF cookie
    headers = {"X-Xsrftoken": client.cookies["_streamlit_xsrf"]} if xsrf else {}
    files = {"file": ("clip.wav", b"\0" * size_bytes)}
    return client.put(f"{url}/_stcore/upload_file/{session}/some-id", files=files, headers=headers).status_code


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# The gate alone


class Inner:
    """An application that notes what reached it."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"the results"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})


class Answer(SimpleNamespace):
    """A status, headers, a body, and whether the application was reached."""

    status: int
    headers: dict[str, str]
    body: bytes
    reached: bool


def ask(path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """One request to a gate in front of `Inner`; `kind`, `scheme` and `port` are the connection's, the rest headers."""
    kind, scheme, port = headers.pop("kind", "http"), headers.pop("scheme", "http"), headers.pop("port", "8501")
    path, _, query = path.partition("?")
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": scheme,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    return respond(scope, int(port))


def respond(scope: Scope, port: int = 8501) -> Answer:
    """What a gate in front of `Inner` answers to a connection."""
    inner = Inner()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate.TokenGate(inner, TOKEN, port)(scope, receive, send))
    first = sent[0] if sent else {}
    return Answer(
        status=first.get("status"),
        headers={k.decode(): v.decode() for k, v in first.get("headers", [])},
        body=b"".join(m.get("body", b"") for m in sent),
        reached=bool(inner.reached),
        messages=[m["type"] for m in sent],
    )


def cookie(port: int = 8501) -> str:
    return ask(f"/?token={QUOTED}", port=str(port)).headers["set-cookie"].partition(";")[0]


WRONG = {
    "nothing": {},
    "another token": {"authorization": "Bearer another-token-0123456789"},
    "another scheme": {"authorization": f"Basic {TOKEN}"},
    "an empty token": {"authorization": "Bearer "},
    "a made-up cookie": {"cookie": "earbench-8501=0123456789abcdef"},
    "an empty cookie": {"cookie": "earbench-8501="},
    "the token as the cookie": {"cookie": f"earbench-8501={TOKEN}"},
    "other bytes": {"cookie": "earbench-8501=\u00e9; =; ;;", "authorization": "\u00e9"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("method", METHODS)
def test_without_the_token_no_method_passes(method: str, wrong: dict[str, str]) -> None:
    answer = ask("/", method, **wrong)
    assert answer.status == 401
    assert not answer.reached
    assert answer.body == b"" if method == "HEAD" else answer.body


@pytest.mark.parametrize("query", ["token=", "token=wrong-wrong-wrong-wrong", "tokens=" + QUOTED, QUOTED, "token", "%"])
def test_a_wrong_token_in_the_url_is_refused(query: str) -> None:
    answer = ask(f"/?{query}")
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_token_in_the_url_is_for_opening_pages_only(method: str) -> None:
    assert ask(f"/?token={QUOTED}", method).status == 401


def test_a_refusal_does_not_tell_which_routes_exist() -> None:
    paths = ["/", "/_stcore/health", "/missing", "//", "/_stcore/../x"]
    assert len({str(vars(ask(p))) for p in paths}) == 1


def test_a_refusal_says_how_to_get_in() -> None:
    page, plain = ask(accept="text/html,*/*"), ask(accept="application/json, text/plain, */*")
    assert page.headers["content-type"].startswith("text/html")
    assert plain.headers["content-type"].startswith("text/plain")
    for answer in (page, plain):
        assert b"printed in the terminal" in answer.body
        assert answer.headers["cache-control"] == "no-store"


def test_the_token_is_traded_for_a_cookie_and_leaves_the_url() -> None:
    answer = ask(f"/Results?run=7&token={QUOTED}&x=%C3%A9+y")
    assert answer.status == 303
    assert answer.headers["location"] == "/Results?run=7&x=%C3%A9+y"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    pair, *flags = answer.headers["set-cookie"].split("; ")
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=lax"]
    assert pair.startswith("earbench-8501=")
    assert TOKEN not in pair
    assert QUOTED not in pair
    assert not answer.reached


def test_the_cookie_is_secure_over_https() -> None:
    assert ask(f"/?token={QUOTED}", scheme="https").headers["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//elsewhere.example/x", "/elsewhere.example/x"),
        ("/\\elsewhere", "/%5Celsewhere"),
        ("/\r\nX: y", "/%0D%0AX%3A%20y"),
    ],
)
def test_the_way_on_stays_on_this_host(path: str, location: str) -> None:
    assert ask(f"{path}?token={QUOTED}").headers["location"] == location


@pytest.mark.parametrize("method", METHODS)
def test_the_cookie_admits(method: str) -> None:
    assert ask("/", method, cookie=f"a=b; {cookie()};c=d").reached


def test_scripts_may_send_the_token_in_a_header() -> None:
    assert ask(authorization=f"Bearer {TOKEN}").reached
    assert ask(authorization=f"bearer {TOKEN}").reached


def test_servers_on_one_host_keep_their_cookies_apart() -> None:
    assert cookie(8501).partition("=")[0] != cookie(8502).partition("=")[0]
    assert not ask(cookie=cookie(8502)).reached


def test_websocket_is_closed_before_it_is_accepted() -> None:
    for wrong in WRONG.values():
        assert ask(kind="websocket", **wrong).messages == ["websocket.close"]
    assert ask(f"/_stcore/stream?token={QUOTED}", kind="websocket").messages == ["websocket.close"]
    assert ask(kind="websocket", cookie=cookie()).messages == ["websocket.accept"]


def test_websocket_is_for_pages_of_this_server() -> None:
    """Cookies go to all ports of a host, so a page of another server there would carry ours."""
    here = {"kind": "websocket", "host": "device:8501", "cookie": cookie()}
    assert ask(origin="http://device:8501", **here).reached
    assert not ask(origin="http://device:9999", **here).reached
    assert not ask(origin="null", **here).reached


def test_a_websocket_with_two_origins_passes_only_if_both_are_ours() -> None:
    ours, foreign = (b"origin", b"http://device:8501"), (b"origin", b"http://device:9999")
    for origins, passes in (([ours, ours], True), ([ours, foreign], False), ([foreign, ours], False)):
        headers = [(b"host", b"device:8501"), (b"cookie", cookie().encode()), *origins]
        assert respond({"type": "websocket", "headers": headers}).reached is passes


def test_a_cookie_of_the_same_name_for_another_path_locks_nobody_out() -> None:
    for cookies in (f"{cookie()}; earbench-8501=x", f"earbench-8501=x; {cookie()}"):
        assert ask(cookie=cookies).reached


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_check_that_raises_refuses(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError("for a test")

    admitted = [{"cookie": cookie()}, {"authorization": f"Bearer {TOKEN}"}]
    assert all(ask(kind=kind, **headers).reached for headers in admitted)
    monkeypatch.setattr(hmac, "compare_digest", fail)
    for headers in admitted:
        answer = ask(kind=kind, **headers)
        assert not answer.reached
        assert answer.status == 401 if kind == "http" else answer.messages == ["websocket.close"]
    assert ask(f"/?token={QUOTED}").status == 401
    monkeypatch.undo()
    monkeypatch.setattr(gate, "_is_same_origin", fail)
    assert ask(kind=kind, cookie=cookie()).reached is (kind == "http")


def test_what_is_no_request_does_not_pass_but_lifespan() -> None:
    assert ask(kind="lifespan").reached
    assert not ask(kind="webtransport").reached


# What can't be served


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(launcher.ServeError, match=f"got {port}; allowed: a whole number from 1 to 65535"):
        launcher.serve(port=port)


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(launcher.ServeError, match=f"Port {port} is in use.*--port"):
            launcher.serve(port=port)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "x" * 16 + "\n", "\u00e9" * 16])
def test_a_poor_token_is_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("EARBENCH_TOKEN", token)
    with pytest.raises(launcher.ServeError, match=f"EARBENCH_TOKEN: got {len(token)} characters.*at least 16"):
        launcher.serve(lan=True, port=free_port())


def test_the_token_is_new_at_each_start_unless_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EARBENCH_TOKEN", raising=False)
    tokens = {launcher._token() for _ in range(9)}
    assert len(tokens) == 9
    assert min(map(len, tokens)) >= 32
    monkeypatch.setenv("EARBENCH_TOKEN", TOKEN)
    assert launcher._token() == TOKEN


def certificate(directory: Path, *options: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"),
            *("-subj", "/CN=earbench", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert), *options),
        ],
        check=True,
        capture_output=True,
        timeout=WAIT_S,
    )
    return cert, key


def test_certificates_that_do_not_work(tmp_path: Path) -> None:
    for name in ("good", "other", "locked"):
        (tmp_path / name).mkdir()
    cert, key = certificate(tmp_path / "good", "-nodes")
    _, other = certificate(tmp_path / "other", "-nodes")
    locked = certificate(tmp_path / "locked", "-passout", "pass:abcdef")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for tls, message in [
        ((tmp_path / "no.pem", key), "certificate .*no.pem can't be read: No such file"),
        ((cert, tmp_path), "key .* can't be read: Is a directory"),
        ((empty, key), "don't work"),
        ((cert, other), "don't work: .*mismatch"),
        (locked, "don't work.*without a password"),
    ]:
        with pytest.raises(launcher.ServeError, match=message):
            launcher.serve(port=free_port(), tls=tls)
    launcher._check_certificate(cert, key)


# What is printed


def test_greeting_has_a_url_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def nic(*addresses: tuple[int, str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(family=f, address=a) for f, a in addresses]

    v4, v6 = socket.AF_INET, socket.AF_INET6
    nics = {
        "lo": nic((v4, "127.0.0.1"), (v6, "::1")),
        "eth0": nic((v4, "192.168.1.5"), (v6, "fd00::5"), (v6, "fe80::5%eth0"), (psutil.AF_LINK, "00:11:22:33:44:55")),
        "wlan0": nic((v4, "10.0.0.9")),
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: nics)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {n: SimpleNamespace(isup=n != "wlan0") for n in nics})
    text = launcher._greeting(TOKEN, 8501, [v4, v6], False)
    assert re.findall(r"https?://\S+token=\S+", text) == [
        f"http://192.168.1.5:8501/?token={QUOTED}",
        f"http://[fd00::5]:8501/?token={QUOTED}",
        f"http://localhost:8501/?token={QUOTED}",
    ]
    assert "password" in text
    assert "microphone" in text
    assert "fd00" not in launcher._greeting(TOKEN, 8501, [v4], False)
    assert "https://192.168.1.5:8501/" in launcher._greeting(TOKEN, 8501, [v4], True)
    assert "token" not in launcher._greeting(None, 8501, [v4], False)


# The guard alone

HERE = {"Host": "localhost:8501"}


@pytest.mark.parametrize(
    ("visitor", "headers", "local"),
    [
        (None, HERE, True),
        (None, {"Host": "127.0.0.1:8501"}, True),
        (None, {"Host": "[::1]:8501"}, True),
        (None, {"Host": "bench.localhost"}, True),
        ("127.0.0.1", HERE, True),
        ("127.0.0.2", HERE, True),
        ("::ffff:127.0.0.1", HERE, True),
        ("::ffff:192.168.1.9", HERE, False),
        ("192.168.1.9", HERE, False),
        ("192.168.1.9", {"Host": "192.168.1.5:8501"}, False),
        ("fe80::9%eth0", HERE, False),
        ("testclient", HERE, False),
        ("", HERE, False),
        (None, {}, False),  # a session whose browser left
        (None, {"Host": "rebound.example:8501"}, False),
        (None, {"Host": "localhost.example"}, False),
        (None, {"Host": "[nonsense"}, False),
        (None, {**HERE, "X-Forwarded-For": "127.0.0.1"}, False),
        (None, {**HERE, "Forwarded": "for=127.0.0.1"}, False),
        (object(), HERE, False),  # an address that can't be told is foreign
    ],
)
def test_who_is_on_this_device(
    monkeypatch: pytest.MonkeyPatch, visitor: object, headers: dict[str, str], local: bool
) -> None:
    context = SimpleNamespace(ip_address=visitor, headers=StreamlitHeaders(headers.items()))
    monkeypatch.setattr(guard, "_context", lambda: context)
    assert guard._is_local() is local


def test_pages_render_in_apptest(tmp_path: Path) -> None:
    page = AppTest.from_file(str(write_app(tmp_path)), default_timeout=WAIT_S).run()
    assert [m.value for m in page.markdown] == ["the results"]


def test_pages_ask_the_guard_and_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_is_local", lambda: False)
    page = AppTest.from_file(str(write_app(tmp_path)), default_timeout=WAIT_S).run()
    assert not page.markdown
    assert "python -m bench serve --lan" in page.error[0].value
    monkeypatch.setattr(access, "_protected", True)
    assert page.run().markdown


# The settings


def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())


def test_settings_are_known_to_streamlit_and_safe() -> None:
    known = streamlit_config.get_config_options()

    def flat(d: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for k, v in d.items():
            out |= flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {prefix + k: v}
        return out

    found = flat(settings())
    assert not {k for k in found if k not in known}
    for key, value in {
        "server.address": "127.0.0.1",
        "server.port": 8501,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.maxUploadSize": 200,
        "server.enableXsrfProtection": True,
        "server.enableCORS": True,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showSidebarNavigation": False,
    }.items():
        assert found[key] == value, key


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_is_legible(scheme: str) -> None:
    """WCAG 2.2 contrast: 4.5 for text (AA), 3 for the parts of a control."""

    def channels(colour: str) -> list[int]:
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

    def luminance(rgb: list[int]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: list[int], b: list[int]) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    theme = settings()["theme"][scheme]
    text, link, primary = (channels(theme[k]) for k in ("textColor", "linkColor", "primaryColor"))
    for ground in (channels(theme["backgroundColor"]), channels(theme["secondaryBackgroundColor"])):
        caption = [round(0.6 * t + 0.4 * g) for t, g in zip(text, ground, strict=True)]  # how Streamlit fades it
        for colour in (text, link, caption):
            assert contrast(colour, ground) >= 4.5
        assert contrast(primary, ground) >= 3
    assert contrast(primary, [255, 255, 255]) >= 4.5  # Streamlit's text on a primary button


# Real servers on loopback


def test_local_server(tmp_path: Path) -> None:
    """Without --lan: only 127.0.0.1, no token, the settings beside the script, a quiet end by Ctrl-C."""
    app, port, log = write_app(tmp_path), free_port(), tmp_path / "log"
    url, ws_url = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
    with running(launch(f"serve.serve(port={port}, app=Path({str(app)!r}))"), log) as server:
        listening = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", port)]

        # A page from elsewhere whose name was pointed at this device sees nothing.
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as rebound:
            shown = browse(f"ws://rebound.example:{port}", sock=rebound)
            assert "the results" not in shown
            assert "served without protection" in shown

        with visit(ws_url) as (shown, session), httpx.Client(trust_env=False, timeout=WAIT_S) as client:
            assert "the results" in shown
            assert upload(client, url, session, 1000, xsrf=True) == 204
            assert upload(client, url, session, 1000, xsrf=False) == 403
            assert upload(client, url, session, 3_000_000, xsrf=True) == 413
            server.send_signal(signal.SIGINT)  # while a browser is there
            assert server.wait(10) == 0
    lines = log.read_text().splitlines()
    assert lines == [f"Earbench is open on this device alone: http://localhost:{port}", "Stop it with Ctrl-C."]


def test_the_dashboard_s_own_settings_start_without_a_warning(tmp_path: Path) -> None:
    app, port, log = write_app(tmp_path), free_port(), tmp_path / "log"
    shutil.copy(ROOT / ".streamlit" / "config.toml", tmp_path / ".streamlit" / "config.toml")
    command = [sys.executable, "-m", "streamlit", "run", str(app), "--server.port", str(port)]
    with running(command, log, ready="URL:") as server:
        assert "the results" in browse(f"ws://127.0.0.1:{port}")
        listening = [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", port)]
    text = log.read_text()
    assert not re.search("warn|error|deprecat|not a valid|usage stat|e-?mail", text, re.IGNORECASE), text


def test_token_over_tls(tmp_path: Path) -> None:
    """The gate before the real application, on loopback: a certificate of one's own, and a log without the token."""
    app, port, log = write_app(tmp_path), free_port(), tmp_path / "log"
    cert, key = certificate(tmp_path, "-nodes")
    # serve(lan=True) but for the addresses: tests listen on loopback only.
    code = (
        "listen = serve._listen\n"
        "serve._listen = lambda port, lan: listen(port, lan=False)\n"
        f"serve.serve(lan=True, port={port}, tls=(Path({str(cert)!r}), Path({str(key)!r})), app=Path({str(app)!r}))"
    )
    trust = ssl.create_default_context(cafile=str(cert))
    url, ws_url = f"https://127.0.0.1:{port}", f"wss://127.0.0.1:{port}"
    with running(launch(code), log, env={"EARBENCH_TOKEN": TOKEN}) as server:
        greeting = log.read_text()
        assert f"https://localhost:{port}/?token={QUOTED}" in greeting
        with httpx.Client(trust_env=False, timeout=WAIT_S, verify=trust) as client:
            assert client.get(url).status_code == 401
            assert ws_status(ws_url, ssl=trust) == 403
            answer = client.get(f"{url}/Results?token={QUOTED}&run=7")
            assert answer.status_code == 303
            assert "Secure" in answer.headers["set-cookie"]
            assert client.get(url + answer.headers["location"]).status_code == 200
            assert "Secure" in client.get(f"{url}/_stcore/health").headers["set-cookie"]  # Streamlit's XSRF cookie
            pair = "; ".join(f"{k}={v}" for k, v in client.cookies.items())
        assert "the results" in browse(ws_url, {"Cookie": pair, "Origin": url}, ssl=trust)
        assert ws_status(ws_url, {"Authorization": f"Bearer {TOKEN}"}, ssl=trust) == 101
        assert ws_status(f"{ws_url}/?token={QUOTED}", ssl=trust) == 403
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0
    assert log.read_text() == greeting


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    code = (
        f"try: serve.serve(port={free_port()}, app=Path({str(tmp_path / 'app.py')!r}))\n"
        "except serve.ServeError as error: print('said:', error)"
    )
    done = subprocess.run(
        launch(code), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, stdin=subprocess.DEVNULL
    )
    assert "said: The dashboard did not start" in done.stdout, done.stdout + done.stderr
    assert "app.py" in done.stderr
