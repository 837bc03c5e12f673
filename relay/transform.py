"""A delivery through its script: the call, and the result judged before anything is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from relay.errors import TransformError
from relay.models import Delivery, Event
from relay.sandbox import Call, SandboxPool, Script
from relay.transform_events import TransformLimits, events_from
from relay.transform_input import call_for

__all__ = ["TransformLimits", "call_for", "call_of", "default_script", "events_from", "transform"]

#: A body larger than this is decoded in a thread, so that the event loop goes on.
INLINE_BYTES_MAX: Final = 64 * 1024


async def transform(
    pool: SandboxPool,
    script: Script,
    delivery: Delivery,
    *,
    destination: str,
    environment: str | None,
    limits: TransformLimits,
) -> list[Event] | TransformError:
    """The events of one delivery; an empty list when the script filtered it. Raises SandboxUnavailable."""
    call = await call_of(delivery, limits.body_bytes_max)
    if isinstance(call, TransformError):
        return call
    result = await pool.run(script, call)
    if isinstance(result, TransformError):
        return result
    return events_from(result, delivery, script, destination=destination, environment=environment, limits=limits)


async def call_of(delivery: Delivery, body_bytes_max: int) -> Call | TransformError:
    """As call_for, beside the event loop where it takes long."""
    if len(delivery.request.body) > INLINE_BYTES_MAX:
        return await asyncio.to_thread(call_for, delivery, body_bytes_max)
    return call_for(delivery, body_bytes_max)


def default_script(source: str) -> Script:
    """Inngest's default transform for integrations; `inngest/…` is a name that Inngest keeps for itself."""
    text = (Path(__file__).parent / "default_transform.js").read_text("utf-8")
    slug = "inngest-source" if source == "inngest" else source
    return Script(f"default transform of {source}", text.replace("SOURCE", slug, 1))
