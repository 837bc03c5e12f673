"""The things the relay is about, as plain values: nothing here reads a clock, a file or the network.

Those that are made for every webhook are msgspec's structs: frozen like the others, and made in a tenth of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

# Those that are array_like are written as lists, without their fields' names, on their way to the store's process.

#: Header names and values exactly as they came, in order, duplicates kept.
RawHeaders: TypeAlias = tuple[tuple[bytes, bytes], ...]


class DeliveryState(StrEnum):
    """received ─▶ processed | filtered | dead; a replay makes it received again."""

    RECEIVED = "received"
    PROCESSED = "processed"
    FILTERED = "filtered"
    DEAD = "dead"


class EventState(StrEnum):
    """pending ─▶ sent | dead | pending (at a later time); a replay makes a dead one pending again."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"


class Request(Struct, frozen=True, gc=False, array_like=True):
    """One HTTP request as it arrived: `path` without the query, `query` without the `?`, `body` as on the wire."""

    method: str
    path: str
    query: str
    headers: RawHeaders
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in any case; bytes that are no UTF-8 become U+FFFD."""
        wanted = name.lower().encode("latin-1", "replace")
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("utf-8", "replace")
        return None

    def but(self, **changes: Any) -> Request:
        """The same request with other values of the fields that are named."""
        return replace(self, **changes)


class Delivery(Struct, frozen=True, array_like=True):
    """One genuine request, kept whole. `id` is a ULID of ours; `key` is the provider's own delivery id, if it has one.

    `environment` is the one the *request* asked for (header, else query); None when it asked for none.
    `generation` counts the replays with new event ids (`--again`): 0 is the first processing.
    """

    id: str
    source: str
    key: str | None
    received_ms: int
    request: Request
    environment: str | None = None
    generation: int = 0


class Event(Struct, frozen=True, array_like=True):
    """One Inngest event, ready to send. `json` is its complete JSON text and holds the same id, name and ts.

    `id` is what Inngest and the relay deduplicate by, within one destination and environment.
    """

    id: str
    name: str
    ts: int
    json: bytes
    destination: str
    environment: str | None


class Accepted(Struct, frozen=True):
    """The store's answer to one accepted delivery: the id of the first one seen, and whether this is a later copy."""

    id: str
    duplicate: bool


class ClaimedDelivery(Struct, frozen=True):
    """A delivery that the holder may finish until the lease runs out. `claim` is the store's, opaque to callers."""

    delivery: Delivery
    claim: int
    attempt: int  # 1 the first time it is claimed in this state


class ClaimedEvent(Struct, frozen=True):
    """An event that the holder may settle until the lease runs out. `attempt` counts the tries that ended before."""

    claim: int
    ref: str  # "<delivery id>.<position>": how a person names it
    id: str
    json: bytes
    attempt: int
    created_ms: int


class Finished(Struct, frozen=True):
    """What finish_delivery stored: how many events are new, and the ids that were duplicates."""

    stored: int
    duplicates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """The pending events of one destination and environment. `due_ms` is when the next one may be tried."""

    destination: str
    environment: str | None
    pending: int
    due_ms: int


class Sent(Struct, frozen=True):
    """The sink took the event; `inngest_id` is Inngest's internal id (None where the sink has none to give)."""

    inngest_id: str | None


class Retry(Struct, frozen=True):
    """Not taken, and not the event's fault. `code` is a key of ATTEMPT_FAILURES.

    `after_seconds` is the least wait the sink asked for. `stop` means that nothing will get better by itself
    (wrong key, wrong address): the destination is stopped with an alarm, and such tries never make an event die.
    """

    code: str
    message: str
    after_seconds: float | None = None
    stop: bool = False


class Dead(Struct, frozen=True):
    """The event itself is refused for good; only a person can bring it back (replay)."""

    code: str
    message: str


Outcome: TypeAlias = Sent | Retry | Dead


class Settlement(Struct, frozen=True):
    """How one claimed event ends this attempt. `at_ms` is read for PENDING only."""

    event: ClaimedEvent
    state: EventState
    inngest_id: str | None = None
    code: str | None = None
    message: str | None = None
    at_ms: int = 0
    counted: bool = True  # False leaves the attempt count as it was (a stopped destination)


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as people see it. `request` is None in lists, which never read bodies."""

    id: str
    source: str
    key: str | None
    state: DeliveryState
    received_ms: int
    settled_ms: int | None
    environment: str | None
    body_bytes: int
    generation: int
    event_count: int
    duplicates: tuple[str, ...]
    code: str | None
    message: str | None
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as people see it. `json` is None in lists."""

    ref: str
    id: str
    name: str
    delivery_id: str
    source: str
    destination: str
    environment: str | None
    state: EventState
    attempt: int
    created_ms: int
    at_ms: int
    settled_ms: int | None
    inngest_id: str | None
    code: str | None
    message: str | None
    json: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did: refs put back to work, and for the rest a sentence why not."""

    replayed: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """A secret that a provider sent in a handshake. `id` names it to people; the secret itself is in no list."""

    id: int
    source: str
    secret: str = field(repr=False)
    kept_ms: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """From when until when a source takes further secrets that come in handshakes."""

    source: str
    opened_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts and ages now. `oldest_ms` values are times, None where nothing waits."""

    deliveries: dict[str, int] = field(default_factory=dict)  # state → count
    events: dict[str, int] = field(default_factory=dict)
    received_by_source: dict[str, int] = field(default_factory=dict)
    lanes: tuple[Lane, ...] = ()
    oldest_received_ms: int | None = None
    oldest_pending_ms: int | None = None
    store_bytes: int = 0
