"""A transport that goes nowhere."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire(asyncio.Transport):
    """What a connection does to its transport, written down."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[object] = []
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.did.append(bytes(data))

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.did

    def pause_reading(self) -> None:
        self.did.append("pause")

    def resume_reading(self) -> None:
        self.did.append("resume")

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol
