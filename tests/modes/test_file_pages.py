"""A mapped file's pages leave memory, and what they hold is not lost."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.modes.openvino.file_pages import let_go

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")
BYTES = 8 << 20


def _resident(path: Path) -> int:
    """Bytes of this file that are in this process's memory."""
    resident_bytes, of_it = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            of_it = line.endswith(str(path))
        elif of_it and first == "Rss:":
            resident_bytes += int(line.split()[1]) * 1024
    return resident_bytes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights of a model.bin"
    path.write_bytes(np.arange(BYTES // 4, dtype=np.uint32).tobytes())
    return path


def test_pages_that_were_read_leave_and_come_back(file: Path) -> None:
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        total = np.frombuffer(mapped, dtype=np.uint32).sum()
        assert _resident(file) == BYTES
        with let_go(file):
            assert np.frombuffer(mapped, dtype=np.uint32).sum() == total
        assert _resident(file) == 0
        assert np.frombuffer(mapped, dtype=np.uint32).sum() == total


def test_pages_that_may_be_written_stay(file: Path) -> None:
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[0] = 7  # in this process alone: the file doesn't have it
        with let_go(file):
            pass
        assert mapped[0] == 7 and _resident(file) > 0


def test_a_file_that_nobody_mapped_is_no_error(file: Path) -> None:
    with let_go(file):
        pass
    with pytest.raises(KeyError), let_go(file):
        raise KeyError
