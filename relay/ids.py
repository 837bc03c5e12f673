"""The ids of deliveries and of rejected requests: ULIDs, in the order of time."""

from __future__ import annotations

import os
from time import time_ns
from typing import Final

from ulid import ULID

#: Crockford's base 32, in which a ULID is written.
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: The last two characters of the ids that are made of one ULID.
ENDS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)


class Ids:
    """Calls give a new ULID each. Those of one millisecond share their first 24 characters, of which 14 are random, and
    count up, as the ULID specification has it: making a random one costs as much as reading a request.
    """

    def __init__(self) -> None:
        self._start, self._used, self._ms = "", len(ENDS), 0

    def __call__(self) -> str:
        return self.several(1)[0]

    def several(self, count: int) -> list[str]:
        """So many at once, at most as many as there are ENDS."""
        now_ms, used = time_ns() // 1_000_000, self._used
        if now_ms != self._ms or used + count > len(ENDS):
            made = ULID.from_bytes(now_ms.to_bytes(6, "big") + os.urandom(10))  # ULID() itself may count up too
            self._start, self._ms, used = str(made)[:24], now_ms, 0
        self._used = used + count
        return [self._start + end for end in ENDS[used : self._used]]


new_id: Final = Ids()
new_ids: Final = new_id.several
