"""Sandbox pools with real children, and the things a script is called with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from relay.config import Sandbox
from relay.errors import TransformError
from relay.models import Delivery, Request
from relay.sandbox import Call, SandboxPool, Script
from relay.telemetry import Telemetry
from relay.transform import TransformLimits

LIMITS = TransformLimits(events_per_delivery_max=5, event_bytes_max=2000)
RECEIVED_MS = 1_760_000_000_000

#: Cannot be interrupted: only the end of its child ends it.
HANGS = "function transform() { for (;;) new Promise(() => { for (;;) {} }) }"


@asynccontextmanager
async def sandbox(processes: int = 1, deadline_ms: int = 250, **settings: Any) -> AsyncIterator[SandboxPool]:
    pool = SandboxPool(Sandbox(processes=processes, deadline_ms=deadline_ms, **settings), Telemetry())
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def script(text: str, file: str = "transforms/test.js") -> Script:
    return Script(file, text)


def call(raw: str = '{"x":1}', *, evt: str | None = None, headers: str = "{}", query: str | None = None) -> Call:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else text.encode("utf-8", "surrogatepass")

    return Call(raw.encode("utf-8", "surrogatepass"), encoded(evt), headers.encode(), encoded(query))


async def outcome(pool: SandboxPool, text: str, raw: str = '{"x":1}') -> str:
    """The result's text, `nothing`, or the error's code: what two runs of one script are compared by."""
    result = await pool.run(script(text), call(raw))
    if isinstance(result, TransformError):
        return f"error {result.code}"
    return "nothing" if result is None else result.decode()


async def failure(pool: SandboxPool, text: str, raw: str = '{"x":1}') -> TransformError:
    result = await pool.run(script(text), call(raw))
    assert isinstance(result, TransformError), result
    return result


def delivery(
    body: bytes = b'{"x":1}',
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    key: str | None = "evt_1",
    generation: int = 0,
) -> Delivery:
    raw = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
    request = Request("POST", "/in/acme", query, raw, body)
    return Delivery("01JDELIVERY", "acme", key, RECEIVED_MS, request, generation=generation)
