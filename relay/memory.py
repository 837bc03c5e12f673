"""How a process of the relay's that stays keeps its memory, once it has started."""

from __future__ import annotations

import gc
from typing import Final

#: The search for reference cycles begins when so many objects have come that have not gone.
GC_OBJECTS: Final = 20_000


def settle_memory() -> None:
    """What is there now stays: the search for reference cycles need not walk it again and again, nor after every 700
    objects, of which a webhook makes dozens that go by themselves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)
