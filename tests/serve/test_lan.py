"""The dashboard on a network: a device and a laptop, each in a network namespace, joined by a cable between them alone.

Nothing is opened on the machine's own addresses. Needs root and iproute2.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import httpx
import pytest
from test_serve import METHODS, QUOTED, TOKEN, WAIT_S, browse, launch, running, upload, visit, write_app, ws_status

P = ParamSpec("P")
T = TypeVar("T")

DEVICE_IP, LAPTOP_IP = "10.213.7.1", "10.213.7.2"
DEVICE_IPV6, LAPTOP_IPV6 = "fd00:ea:b::1", "fd00:ea:b::2"
PORT = 8501
URL, WS_URL = f"http://{DEVICE_IP}:{PORT}", f"ws://{DEVICE_IP}:{PORT}"
CLONE_NEWNET = 0x40000000

ROUTES = (
    "/",
    "/Benchmark",
    "/Results?run=1",
    "/favicon.png",
    "/static/js/index.js",
    "/app/static/logo.txt",
    "/app/static/missing.txt",
    "/media/missing.csv",
    "/component/any.component/index.html",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/script-health-check",
    "/_stcore/bidi-components/any/index.js",
    "/_stcore/upload_file/some-session/some-file",
    "/_stcore/stream",
    "/_stcore/agent/interact",
    "/_stcore/agent/openapi.json",
    "/_stcore/missing",
    "/oauth2callback",
    "/auth/login",
    "/missing",
    "//",
    "/..%2f..%2fapp.py",
    "/%00",
)
WRONG = {
    "nothing": {},
    "a wrong token": {"Authorization": "Bearer wrong-wrong-wrong-wrong"},
    "a wrong cookie": {"Cookie": f"earbench-{PORT}={'0' * 64}"},
    "the token as the cookie": {"Cookie": f"earbench-{PORT}={TOKEN}"},
    "a claim to be local": {"X-Forwarded-For": "127.0.0.1", "Host": f"localhost:{PORT}"},
}

pytestmark = pytest.mark.timeout(120)


class Machine:
    """A network namespace; what `do` runs opens its sockets there."""

    def __init__(self, name: str) -> None:
        """A namespace that exists."""
        self.name = name
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function from this machine."""
        return self._thread.submit(function, *args, **kwargs).result(timeout=90)

    def command(self, command: list[str]) -> list[str]:
        """The command that runs another on this machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def leave(self) -> None:
        """Give the thread back."""
        self._thread.shutdown()

    def _enter(self) -> None:
        # One thread of this process moves; Python offers it from 3.12 on (os.setns).
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.name}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """A device and a laptop with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("`ip` is not installed (package iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    device, laptop = f"earbench-{os.getpid()}-device", f"earbench-{os.getpid()}-laptop"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=WAIT_S)

    made: list[Machine] = []
    try:
        try:
            ip("netns", "add", device)
            ip("netns", "add", laptop)
            ip("link", "add", "cable0", "netns", device, "type", "veth", "peer", "name", "cable1", "netns", laptop)
            for name, nic, v4, v6 in (
                (device, "cable0", DEVICE_IP, DEVICE_IPV6),
                (laptop, "cable1", LAPTOP_IP, LAPTOP_IPV6),
            ):
                ip("-n", name, "address", "add", f"{v4}/30", "dev", nic)
                with suppress(subprocess.CalledProcessError):  # a kernel without IPv6 does for the rest
                    ip("-n", name, "address", "add", f"{v6}/64", "dev", nic, "nodad")
                ip("-n", name, "link", "set", nic, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces don't work here: {error.stderr.strip()}")
        made = [Machine(device), Machine(laptop)]
        yield made[0], made[1]
    finally:
        for machine in made:
            machine.leave()
        for name in (device, laptop):  # the cable goes with them
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=WAIT_S)


@pytest.fixture(scope="module")
def dashboard(machines: tuple[Machine, Machine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`serve --lan` on the device; the value is its log."""
    directory = tmp_path_factory.mktemp("lan")
    app, log = write_app(directory), directory / "log"
    command = launch(f"serve.serve(lan=True, port={PORT}, app=Path({str(app)!r}))")
    with running(machines[0].command(command), log, env={"EARBENCH_TOKEN": TOKEN}):
        yield log


def client(**options: object) -> httpx.Client:
    return httpx.Client(trust_env=False, timeout=WAIT_S, base_url=URL, **options)  # type: ignore[arg-type]


def cookie_of(c: httpx.Client) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{k}={v}" for k, v in c.cookies.items())}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_every_route_refuses_a_stranger(
    machines: tuple[Machine, Machine], dashboard: Path, wrong: dict[str, str]
) -> None:
    def knock() -> None:
        with client(headers=wrong) as c:
            for route, method in itertools.product(ROUTES, METHODS):
                answer = c.request(method, route)
                assert answer.status_code in (401, 403), (method, route, answer.status_code)
                assert "set-cookie" not in answer.headers
                assert "Streamlit" not in answer.text
            assert c.get("/", params={"token": "wrong-wrong-wrong-wrong"}).status_code in (401, 403)

    _, laptop = machines
    laptop.do(knock)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_websocket_refuses_a_stranger(
    machines: tuple[Machine, Machine], dashboard: Path, wrong: dict[str, str]
) -> None:
    _, laptop = machines
    headers = {k: v for k, v in wrong.items() if k != "Host"}  # the client sends its own
    assert laptop.do(ws_status, WS_URL, headers) in (401, 403)


def test_the_url_in_the_terminal_lets_in(machines: tuple[Machine, Machine], dashboard: Path) -> None:
    """Each printed address: 303 with the cookie, then pages, files, uploads, downloads and the WebSocket."""
    device, laptop = machines
    urls = [u for u in re.findall(r"https?://\S+", dashboard.read_text()) if "localhost" not in u]
    hosts = [DEVICE_IP, *([f"[{DEVICE_IPV6}]"] if device.do(has_ipv6) else [])]
    assert urls == [f"http://{host}:{PORT}/?token={QUOTED}" for host in hosts]

    def use(url: str) -> None:
        base, _, _ = url.partition("/?")
        with client() as c:
            answer = c.get(url)
            assert answer.status_code == 303
            pair, *flags = answer.headers["set-cookie"].split("; ")
            assert pair.startswith(f"earbench-{PORT}=")
            assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=lax"]
            page = c.get(base + answer.headers["location"])
            assert page.status_code == 200
            assert "<html" in page.text
            script = re.search(r'src="\.?(/static/js/[^"]+)"', page.text)
            assert script
            assert c.get(base + script[1]).status_code == 200
            assert c.get(f"{base}/_stcore/health").status_code == 200
            assert c.get(f"{base}/app/static/logo.txt").text == "a logo"

            ws_base = base.replace("http", "ws", 1)
            with visit(ws_base, {**cookie_of(c), "Origin": base}) as (shown, session):
                assert "the results" in shown
                assert upload(c, base, session, 1000, xsrf=True) == 204
                media = re.search(r"/media/\w+\.\w+", shown)
                assert media
                assert c.get(base + media[0]).text == "a,b"
                with client() as stranger:  # who guessed what is really there
                    assert stranger.get(base + media[0]).status_code in (401, 403)
                    assert upload_as_a_stranger(stranger, base, session) in (401, 403)
            # A page of another server on the device, to which the browser gives the cookie too.
            elsewhere = base.replace(str(PORT), "9999")
            assert ws_status(ws_base, {**cookie_of(c), "Origin": elsewhere}) == 403

    for url in urls:
        laptop.do(use, url)
    assert TOKEN not in dashboard.read_text().partition("Ctrl-C")[2]  # nothing is logged of the URLs that were opened
    assert QUOTED not in dashboard.read_text().partition("Ctrl-C")[2]


def has_ipv6() -> bool:
    try:
        with socket.create_server((DEVICE_IPV6, 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def upload_as_a_stranger(c: httpx.Client, base: str, session: str) -> int:
    return c.put(f"{base}/_stcore/upload_file/{session}/x", files={"file": ("x.wav", b"0" * 500_000)}).status_code


def test_streamlits_own_option_shows_nothing_to_strangers(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """`streamlit run --server.address 0.0.0.0`: the refusal from the laptop, the page on the device itself."""
    device, laptop = machines
    app, port = write_app(tmp_path), PORT + 1
    command = [sys.executable, "-m", "streamlit", "run", str(app)]
    options = ["--server.address", "0.0.0.0", "--server.port", str(port)]
    # The worst setting: Streamlit's server believes everyone who says for whom he speaks.
    env = {"FORWARDED_ALLOW_IPS": "*"}
    with running(device.command(command + options), tmp_path / "log", ready="URL:", env=env):
        for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": "::1", "X-Forwarded-Proto": "https"}):
            shown = laptop.do(browse, f"ws://{DEVICE_IP}:{port}", headers)
            assert "the results" not in shown
            assert "python -m bench serve --lan" in shown
        assert "the results" in device.do(browse, f"ws://127.0.0.1:{port}")
