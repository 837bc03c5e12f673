from collections.abc import Callable, Sequence
from typing import Any

#: See relay.schemes.base.Vouches; what is read has `named`, `several` and `request.body`.
Vouches = Callable[[Any, float], bool]

class Item:
    def __init__(
        self, header: bytes, separator: bytes, prefix: bytes, allowed: bytes, bytes_max: int, padded: bool = False
    ) -> None: ...

class MacVoucher:
    #: The way in Python.
    ask: Vouches

    def __init__(
        self,
        ask: Vouches,
        macs: list[Callable[[bytes], bytes]],
        signature: Item,
        decode: Callable[[bytes], bytes | None],
        content: Sequence[bytes | Item | None],
        time: Item | None = None,
        in_ms: bool = False,
        past: float | None = None,
        future: float | None = None,
    ) -> None: ...
    def __call__(self, reader: Any, now_s: float) -> bool: ...
