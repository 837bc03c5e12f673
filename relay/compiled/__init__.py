"""The hottest steps in compiled code, where that could be built: reading a plain request, and checking a usual MAC.

Compiled code says yes to what is clear, and asks the Python code that it stands for about all the rest: that decides
what is refused, and how. It is built when the relay is installed, if there is a C compiler. Without it the relay is
slower and otherwise the same, as with RELAY_COMPILED=0 in its environment.
"""

from __future__ import annotations

import os

__all__ = ["IS_COMPILED", "Item", "MacVoucher", "read_plain"]

IS_COMPILED = False
if os.environ.get("RELAY_COMPILED") != "0":
    try:
        from relay.compiled.heads import read_plain
        from relay.compiled.macs import Item, MacVoucher

        IS_COMPILED = True
    except ImportError:
        pass
if not IS_COMPILED:
    from relay.plain import read_plain
