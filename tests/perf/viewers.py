"""Sessions that watch a page as browsers do, in a process of their own, so that their CPU time can be told apart.

    python tests/perf/viewers.py PORT COUNT CLOCK

Each session opens the Benchmark page over a WebSocket and polls its fragments when they are due. Of each message, only
what decides about the next poll is parsed, so that the sessions take as little as possible of the processor that they
share with the server. CLOCK is a file with the seconds during which this process was stopped (a double): they count
neither for polls nor for answers.

A line on stdin begins the measurement; when stdin ends, what was measured since is printed as JSON: the number of
polls and of openings, and the seconds from each request to the end of the script run that answered it.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

PAGE = "Benchmark"
OPEN_EVERY_S = 10.0  # one session leaves and comes back, as people do
STAGGER_S = 0.3  # between the openings of the first sessions
_FIELDS = {field.name: field.number for field in ForwardMsg.DESCRIPTOR.fields}
# What decides about the next poll. All else, above all charts and tables, is not parsed.
_PARSED = frozenset(_FIELDS[name] for name in ("new_session", "auto_rerun", "stop_auto_rerun", "script_finished"))
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class Closed(Exception):
    """The server closed the connection."""


class Session:
    """One session on the page."""

    def __init__(self, port: int, now: Callable[[], float]) -> None:
        """Connect and request the page."""
        self._now = now
        self._due: dict[str, tuple[float, float]] = {}  # fragment -> (when, every so many seconds)
        self._asked_s: float | None = None  # when the oldest request that is not answered yet was sent
        self._buffer = bytearray()
        self.polls = 0
        self.answers_s: list[float] = []
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        key = base64.b64encode(os.urandom(16)).decode()
        head_lines = (
            "GET /_stcore/stream HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: streamlit",
        )
        self.socket.sendall("\r\n".join((*head_lines, "", "")).encode())
        head = bytearray()
        while b"\r\n\r\n" not in head:
            chunk = self.socket.recv(4096)
            if not chunk:
                raise Closed
            head += chunk
        status, _, rest = bytes(head).partition(b"\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 101"), status
        self._buffer += rest
        self.ask(BackMsg())

    def ask(self, message: BackMsg) -> None:
        """Request a rerun of the page, or of the fragment that the message names."""
        message.rerun_script.page_name = PAGE
        if self._asked_s is None:
            self._asked_s = self._now()
        self._send(_BINARY, message.SerializeToString())

    def poll(self) -> float:
        """Poll the fragments that are due; returns when the next one is."""
        now = self._now()
        for fragment, (when, every_s) in self._due.items():
            if when <= now:
                self._due[fragment] = now + every_s, every_s
                message = BackMsg()
                message.rerun_script.fragment_id = fragment
                message.rerun_script.is_auto_rerun = True
                self.ask(message)
                self.polls += 1
        return min((when for when, _ in self._due.values()), default=now + 60)

    def receive(self) -> None:
        """Read what has arrived. Raises Closed."""
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise Closed
        self._buffer += chunk
        for opcode, payload in self._frames():
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                raise Closed
            elif opcode == _BINARY:
                self.take(payload)

    def take(self, payload: bytes) -> None:
        """Take a message of the server."""
        if kind(payload) not in _PARSED:
            return
        message = ForwardMsg.FromString(payload)
        match message.WhichOneof("type"):
            case "new_session" if not message.metadata.run.fragment_ids:  # the whole page is drawn anew
                self._due.clear()
            case "auto_rerun":
                every_s = message.auto_rerun.interval
                self._due[message.auto_rerun.fragment_id] = self._now() + every_s, every_s
            case "stop_auto_rerun":
                for fragment in message.stop_auto_rerun.fragment_ids:
                    self._due.pop(fragment, None)
            case "script_finished" if message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    self.drawn()
                if self._asked_s is not None:
                    self.answers_s.append(self._now() - self._asked_s)
                    self._asked_s = None

    def drawn(self) -> None:
        """Called when the whole page has been drawn."""

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """The complete frames of the buffer: (opcode, payload). The server sends each message in one frame."""
        while len(self._buffer) >= 2:
            opcode, length, start = self._buffer[0] & 15, self._buffer[1] & 127, 2
            if length >= 126:
                start = 4 if length == 126 else 10
                if len(self._buffer) < start:
                    return
                length = int.from_bytes(self._buffer[2:start], "big")
            if len(self._buffer) < start + length:
                return
            payload = bytes(self._buffer[start : start + length])
            del self._buffer[: start + length]
            yield opcode, payload

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a frame. Its mask is zero, which the protocol allows and which leaves the payload as it is."""
        length = len(payload)
        head = bytes([128 | opcode, 128 | length]) if length < 126 else struct.pack("!BBH", 128 | opcode, 254, length)
        self.socket.sendall(head + bytes(4) + payload)


def kind(payload: bytes) -> int:
    """The number of the field of a serialised ForwardMsg that tells its kind, without parsing the rest."""
    position, metadata = 0, (_FIELDS["hash"], _FIELDS["metadata"])
    while position < len(payload):
        tag, position = _varint(payload, position)
        if tag >> 3 not in metadata:
            return tag >> 3
        length, position = _varint(payload, position)  # both are written with their length
        position += length
    return 0


def _varint(payload: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = payload[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def main(port: int, count: int, clock: Path) -> None:
    """Watch until stdin ends, then print what was measured."""
    with clock.open("rb") as file:
        stopped_s = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def now() -> float:
        return time.monotonic() - float(struct.unpack("d", stopped_s[:8])[0])

    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    sessions: list[Session] = []
    left: list[Session] = []
    measured_from: dict[Session, tuple[int, int]] = {}
    openings, open_next_s = 0, now()
    while True:
        if now() >= open_next_s:
            if len(sessions) == count:
                oldest = sessions.pop(0)
                selector.unregister(oldest.socket)
                oldest.close()
                left.append(oldest)
            sessions.append(Session(port, now))
            selector.register(sessions[-1].socket, selectors.EVENT_READ, sessions[-1])
            openings += 1
            open_next_s = now() + (STAGGER_S if len(sessions) < count else OPEN_EVERY_S)
        soonest = min(open_next_s, *(s.poll() for s in sessions))
        for key, _ in selector.select(max(0.0, soonest - now())):
            if isinstance(key.data, Session):
                key.data.receive()
            elif os.read(0, 4096):
                measured_from = {s: (s.polls, len(s.answers_s)) for s in (*sessions, *left)}
                openings = 0
            else:
                everyone = {s: measured_from.get(s, (0, 0)) for s in (*sessions, *left)}
                report = {
                    "polls": sum(s.polls - polls for s, (polls, _) in everyone.items()),
                    "openings": openings,
                    "answers_s": [x for s, (_, answers) in everyone.items() for x in s.answers_s[answers:]],
                }
                print(json.dumps(report))
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
