"""The pen's contract: rejected requests at rest, for a person to look at. tests/contract/test_pen.py holds it.

Whatever strangers send, a pen takes nothing from accepted work: `keep` costs microseconds, what is kept is limited per
source and in total, and losing any of it (a power cut, a full disk, a broken file) is no loss that anybody was promised
against. The pen and the store share nothing but the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.models import Request


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    """A request on its way into the pen. `id` is a ULID of ours; `url` is the URL as the provider sees it.

    `source` is a configured source's name; `code`, `detail` and `skew_seconds` are the Rejected's.
    """

    id: str
    source: str
    received_ms: int
    url: str
    code: str
    detail: str
    request: Request
    skew_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A rejected request as people see it. `request` is None in lists.

    `body_bytes` is the size of the body as it came; without `body_kept` it was too large, and `request` has none.
    """

    id: str
    source: str
    received_ms: int
    url: str
    code: str
    detail: str
    skew_seconds: float | None
    body_bytes: int
    body_kept: bool
    request: Request | None = None


class Pen(Protocol):
    """What was rejected lately, oldest out first."""

    def keep(self, rejected: RejectedRequest) -> bool:
        """True when it is on its way to the file, False when it was dropped (and counted). From the event loop only.

        Never waits and never raises, however many come and whatever state the file is in. A source has at most so many
        requests, so many bytes, and none older than so many hours: its own oldest go first, never another source's. A
        request over the bytes is kept without its body.
        """

    async def list_rejected(
        self, *, source: str | None = None, code: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[RejectedRecord]:
        """Newest first, at most 1,000, all that was kept before the call included.

        `before` is the id of the last one of the page before, which may be gone meanwhile.
        """

    async def get(self, rejected_id: str) -> RejectedRecord | None:
        """One with its request."""

    async def remove(self, ids: Sequence[str]) -> int:
        """How many of them were there. At most 1,000 ids a call."""

    async def counts(self) -> dict[str, int]:
        """How many are kept, by source."""

    async def close(self) -> None:
        """Write what waits, within a few seconds. Any number of times."""
