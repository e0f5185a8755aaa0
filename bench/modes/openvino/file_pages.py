"""A file that an engine maps and copies from: what it has read need not stay in memory beside the copy."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 0.004
_DONT_NEED = 4  # MADV_DONTNEED, linux/mman.h: pages of a file come back from it when they are read again


@contextmanager
def let_go(path: Path) -> Iterator[None]:
    """While it lasts, pages of this file that this process maps and only reads leave its memory soon after they came.

    The file is mapped before, and stays so for as long as this lasts. Nothing is lost: a page that is read again comes
    back from the file. Elsewhere than on Linux nothing happens.
    """
    stretches = _mappings(path) if sys.platform == "linux" else []
    if not stretches:
        yield
        return
    over = threading.Event()

    def repeat() -> None:
        madvise = ctypes.CDLL(None).madvise
        while True:
            last = over.wait(_EVERY_S)
            for start, end in stretches:
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
            if last:
                return

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _mappings(path: Path) -> list[tuple[int, int]]:
    """(start, end) of each stretch of this process's addresses where the file is mapped and can't be written to."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        if rights.startswith("r-") and name == [str(path.resolve())]:
            start, end = (int(a, 16) for a in addresses.split("-"))
            found.append((start, end))
    return found
