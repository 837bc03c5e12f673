"""A limit on how often: so many at once, and more as time goes by."""

from __future__ import annotations

import time


class Budget:
    """A token bucket of `burst`, filled again by `per_second`."""

    __slots__ = ("at", "burst", "left", "per_second")

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst, self.per_second = burst, per_second
        self.left, self.at = burst, time.monotonic()

    def take(self) -> bool:
        """One of it, if there is one."""
        self._fill()
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def is_full(self) -> bool:
        self._fill()
        return self.left >= self.burst

    def charge(self, more: float) -> None:
        """What one that was taken cost beyond one; until it has come in again, none is left."""
        self.left -= more

    def _fill(self) -> None:
        now = time.monotonic()
        self.left = min(self.burst, self.left + (now - self.at) * self.per_second)
        self.at = now
