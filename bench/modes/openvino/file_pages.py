"""Release the memory pages of a file that an engine maps and copies from; they are not needed beside the copy."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 0.004
_DONT_NEED = 4  # MADV_DONTNEED, linux/mman.h: released file pages are read from the file again on access


@contextmanager
def let_go(path: Path) -> Iterator[None]:
    """Context manager that keeps releasing this process's read-only mapped pages of a file while it is active.

    The file must be mapped before and stay mapped until the end. No data is lost: a page that is accessed again is
    read from the file. Does nothing on systems other than Linux.
    """
    mappings = _mappings(path) if sys.platform == "linux" else []
    if not mappings:
        yield
        return
    finished = threading.Event()

    def repeat() -> None:
        madvise = ctypes.CDLL(None).madvise
        while True:
            last = finished.wait(_EVERY_S)
            for start, end in mappings:
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)
            if last:
                return

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _mappings(path: Path) -> list[tuple[int, int]]:
    """Return (start, end) of each address range where this process maps the file without write access."""
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if permissions.startswith("r-") and name == [str(path.resolve())]:
            start, end = (int(address, 16) for address in addresses.split("-"))
            mappings.append((start, end))
    return mappings
