"""The store's contract: transitions, one observable guarantee each. tests/contract/ runs every sentence on every store.

All times are unix milliseconds handed in or read from the clock given at construction. Every list is limited.
Driver errors leave as StoreUnavailable; a store neither logs nor retries. A call either happened whole or not at all.
Many calls may be in flight at once: committing them in groups is the store's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from relay.errors import StoreUnavailable, TransformError
from relay.models import (
    Accepted,
    ClaimedDelivery,
    ClaimedEvent,
    Delivery,
    DeliveryRecord,
    DeliveryState,
    Event,
    EventRecord,
    EventState,
    Finished,
    KeptSecret,
    Lane,
    Pairing,
    ReplayResult,
    Settlement,
    StoreStats,
)

#: A source keeps no more secrets than this: each is tried for every request.
SECRETS_MAX: Final = 20


class Store(Protocol):
    """Deliveries and events at rest, and who holds which."""

    async def accept(self, deliveries: Sequence[Delivery]) -> list[Accepted]:
        """Durable when it returns, one answer per delivery in order.

        A delivery whose (source, environment asked for, key) is already kept, or comes earlier in the same call, is
        not stored again and answers the first one's id. A key of None is never a duplicate.
        """

    def accept_then(
        self, deliveries: Sequence[Delivery], answer: Callable[[Sequence[Accepted | StoreUnavailable]], None]
    ) -> None:
        """`accept` of one or more, each for itself, without waiting: never raises, and calls `answer` once, later, on
        the event loop, with one answer per delivery in order.
        """

    async def claim_deliveries(
        self, limit: int, lease_seconds: float, per_source_max: dict[str, int]
    ) -> list[ClaimedDelivery]:
        """Up to `limit` received deliveries, of the sources named in `per_source_max`, at most so many of each.

        No delivery is in two unexpired claims. Oldest first within a source, turn by turn between sources.
        Never waits.
        """

    async def finish_delivery(self, claim: ClaimedDelivery, events: Sequence[Event]) -> Finished:
        """All of it visible or none: the delivery is processed (filtered when there are no events), its events are
        pending, and their ids are known for the dedupe window. An event whose (destination, environment, id) was
        first seen less than the window ago is not stored again. Raises LeaseLost, changing nothing, when the claim
        is no longer held.
        """

    async def finish_deliveries(
        self, finishes: Sequence[tuple[ClaimedDelivery, Sequence[Event]]]
    ) -> list[Finished | None]:
        """`finish_delivery` of several, each for itself; None where the claim is no longer held."""

    async def fail_delivery(self, claim: ClaimedDelivery, error: TransformError) -> None:
        """The delivery is dead with the error's code and text. Raises LeaseLost like finish_delivery."""

    async def release_delivery(self, claim: ClaimedDelivery, after_seconds: float = 0) -> None:
        """The claim is given back; the delivery can be claimed again after so many seconds."""

    async def wait_deliveries(self, seconds: float) -> None:
        """Returns when a delivery may have become claimable since the last claim, at the latest after `seconds`."""

    async def lanes(self) -> list[Lane]:
        """Every (destination, environment) that has unclaimed pending events, at most 10,000."""

    async def claim_events(
        self, destination: str, environment: str | None, limit: int, bytes_max: int, lease_seconds: float
    ) -> list[ClaimedEvent]:
        """Up to `limit` pending events of one lane whose time has come, together at most `bytes_max` bytes as one JSON
        array (but at least one event). No event is in two unexpired claims. Oldest first. Never waits.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Each event takes its state. A settlement whose claim is no longer held changes nothing (and is counted in
        `late_settlements`).
        """

    async def release_events(self, events: Sequence[ClaimedEvent]) -> None:
        """The claims are given back; nothing else changes."""

    async def wait_events(self, seconds: float) -> None:
        """Returns when an event may have become claimable since the last claim, at the latest after `seconds`."""

    async def replay(self, ids: Sequence[str], *, again: bool = False, environment: str | None = None) -> ReplayResult:
        """Put named work back. An id is a delivery's id or an event's ref.

        A dead or filtered delivery is received again; a dead event is pending again with attempt 0. Finished work
        (processed, sent) is refused unless `again`: then the delivery is received again in the next generation, or
        the event is copied under a new id (`<id>:again-<n>`), so that nobody takes it for a duplicate.
        `environment` replaces the environment that the request asked for. At most 1,000 ids a call.
        """

    async def list_deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        source: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[DeliveryRecord]:
        """Newest first, at most 1,000; `before` is the id of the last one of the page before."""

    async def get_delivery(self, delivery_id: str) -> DeliveryRecord | None:
        """One delivery with its request."""

    async def list_events(
        self,
        *,
        state: EventState | None = None,
        delivery_id: str | None = None,
        source: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[EventRecord]:
        """Newest first, at most 1,000; `before` is the ref of the last one of the page before."""

    async def get_event(self, ref: str) -> EventRecord | None:
        """One event with its JSON, by its ref."""

    async def keep_secret(
        self, source: str, secret: str, now_ms: int, *, configured: bool = False
    ) -> KeptSecret | None:
        """A secret that came in a handshake is durable when it returns. One that is kept already is given as it is.

        None, changing nothing, when the source has secrets (kept ones, or with `configured` those of the configuration)
        and is not open for more, or has SECRETS_MAX. Of any number at once that come first, one is kept.
        """

    async def kept_secrets(self, source: str) -> tuple[str, ...]:
        """The secrets that are kept for a source, the newest first. Never waits: it is asked for every request."""

    async def list_secrets(self, source: str | None = None) -> list[KeptSecret]:
        """All that are kept, or those of one source; by source, the newest first. At most 1,000."""

    async def forget_secrets(self, source: str, secret_id: int | None = None) -> int:
        """Delete one, or all of the source's: how many went. Without any left its next first one is kept again."""

    async def open_pairing(self, pairing: Pairing) -> None:
        """The source takes further secrets from `opened_ms` until before `until_ms`; replaces what was said before.

        Durable, and forgotten when it is over. A clock that is set back before `opened_ms` closes it.
        """

    async def list_pairings(self, now_ms: int) -> list[Pairing]:
        """The sources that are open now, at most 1,000."""

    async def stats(self) -> StoreStats:
        """Counts now; cheap enough to be asked every few seconds."""

    async def prune(self, before_ms: int, limit: int = 500) -> int:
        """Delete up to `limit` settled deliveries received before that time, with their events, if none is pending;
        forget dedupe ids that are past the window. How many deliveries went; 0 means done. One short transaction.
        """

    async def probe(self) -> None:
        """Write something and take it back; raises StoreUnavailable when accept would."""

    async def close(self) -> None:
        """Finish what was submitted, release every claim, close the files."""
