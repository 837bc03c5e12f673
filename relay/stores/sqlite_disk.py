"""How much room the disk has."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

#: How old the known amount of free disk may be.
FREE_CHECK_SECONDS: Final = 1.0


class DiskFloor:
    """Whether so many bytes more leave the disk with its least free space. Asks the disk about once a second."""

    def __init__(self, folder: Path, free_bytes_min: int) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._free_bytes = 0
        self._asked_s = float("-inf")

    def has_room(self, size_bytes: int) -> bool:
        stale = time.monotonic() - self._asked_s >= FREE_CHECK_SECONDS
        if stale or self._free_bytes - size_bytes < self._free_bytes_min:
            self._ask()
        self._free_bytes -= size_bytes
        return self._free_bytes >= self._free_bytes_min

    def _ask(self) -> None:
        self._asked_s = time.monotonic()
        try:
            found = os.statvfs(self._folder)
        except OSError:
            self._free_bytes = -1
        else:
            self._free_bytes = found.f_bavail * found.f_frsize
