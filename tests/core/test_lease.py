"""The lease: one holder, a note of who it is that is read without a lock, and holders that died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core import paths
from bench.core.lease import Lease, Refused

HOLD = """
import sys
from pathlib import Path
from bench.core.lease import Lease
held = Lease(Path(sys.argv[1])).take("run 7")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "earbench.lock"


def test_free_taken_and_released(path: Path) -> None:
    lease, other = Lease(path), Lease(path)
    assert lease.holder() is None and not lease.is_ours
    with lease.take("a run"):
        holder = other.holder()
        assert holder and (holder.pid, holder.what) == (os.getpid(), "a run")
        assert lease.is_ours and not other.is_ours
        assert other.try_take("another") is None
        with pytest.raises(Refused, match=rf"process {os.getpid()} has held it since .* for a run\. Two at once"):
            other.take("another")
    assert lease.holder() is None and not lease.is_ours
    with other.take("another"):
        assert other.is_ours


def test_to_be_looked_at_never_keeps_a_start_from_its_lease(path: Path) -> None:
    lease, other = Lease(path), Lease(path)
    for _ in range(200):
        assert other.holder() is None
        held = lease.try_take("a run")
        assert held
        held.release()


def test_the_note_of_a_process_that_died_counts_for_nothing(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=paths.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout and child.stdout.readline() == b"held\n"
        holder = Lease(path).holder()
        assert holder and (holder.pid, holder.what) == (child.pid, "run 7")
    finally:
        child.kill()
        child.communicate()
    assert path.read_text() and Lease(path).holder() is None  # its note is still there
    with Lease(path).take("a run"):
        pass


def test_a_process_that_got_the_same_number_is_not_the_holder(path: Path) -> None:
    with Lease(path).take("a run"):
        note = path.read_text()
    path.write_text(note.replace('"started": ', '"started": 1'))
    assert Lease(path).holder() is None


@pytest.mark.parametrize("note", ["", "not JSON", "[]", '{"pid": 1, "what": "x", "since_s": 0}'])
def test_a_note_that_says_nothing_is_no_holder(path: Path, note: str) -> None:
    path.write_text(note)
    assert Lease(path).holder() is None
