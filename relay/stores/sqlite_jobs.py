"""What the writer is told to do and what came of it: plain values, which can go to another process and come back.

A group of jobs and its reply travel as MessagePack. What that cannot hold goes as a pickle: calls, their results,
errors, text with lone surrogates, numbers of more than 64 bits. Both ends are this program, on a socket of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from struct import Struct as Layout
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from relay.errors import StoreUnavailable
from relay.models import Delivery, Event

# ── jobs; `size_bytes` is what each takes in the queue and, at a guess, on the disk ──


class Accept(Struct, frozen=True, array_like=True, tag=1):
    """Deliveries that are stored: all or none when they are `whole`, else each for itself."""

    grows = True
    deliveries: Sequence[Delivery]
    size_bytes: int
    whole: bool


class Finish(Struct, frozen=True, array_like=True, tag=2):
    """A delivery becomes processed, filtered (no events) or, with `failure` (code, message) and no events, dead."""

    grows = False
    seq: int
    generation: int
    received_ms: int
    body_bytes: int
    now_ms: int
    events: Sequence[Event]
    failure: tuple[str, str] | None
    size_bytes: int


class Settle(Struct, frozen=True, array_like=True, tag=3):
    """Events end their attempts: rows of event_state, with fewer columns for those that are sent."""

    grows = False
    sent: Sequence[Sequence[Any]]
    others: Sequence[Sequence[Any]]
    size_bytes: int


class Call(Struct, frozen=True, array_like=True, tag=4):
    """Everything else: a function of the Session, or a partial one, from the top of a module."""

    function: Callable[[Any], Any]
    size_bytes: int
    grows: bool


Job: TypeAlias = Accept | Finish | Settle | Call


# ── results, in the order of the jobs ──


class AcceptResult(Struct, frozen=True, array_like=True, tag=1):
    """The seq of the first delivery that was stored; the others follow without a gap. Those that were not are in
    `earlier`, by their places: the id of the one that had the same key.
    """

    first: int
    earlier: dict[int, str]


class FinishResult(Struct, frozen=True, array_like=True, tag=2):
    """The new events as (seq, lane's number, place among the events), and the ids that were known."""

    stored: list[tuple[int, int, int]]
    duplicates: list[str]


class SettleResult(Struct, frozen=True, array_like=True, tag=3):
    """They are."""


class CallResult(Struct, frozen=True, array_like=True, tag=4):
    """What the function gave."""

    result: Any


class Failed(Struct, frozen=True, array_like=True, tag=5):
    """Nothing of this job was stored."""

    error: Exception


class Parted(Struct, frozen=True, array_like=True, tag=6):
    """Deliveries of one Accept that were stored each for itself, since that could not be done at once."""

    results: Sequence[Any]  # AcceptResult or Failed


Result: TypeAlias = AcceptResult | FinishResult | SettleResult | CallResult | Failed | Parted


class Reply(Struct, frozen=True, array_like=True):
    """What came of a group, durable by now. `rest_seconds`: how long to wait for company before the next COMMIT;
    `commits`: how many transactions there have been.
    """

    results: Sequence[Result]
    rest_seconds: float
    commits: int


class Opened(Struct, frozen=True):
    """The first that the writer's process says: how often the file has been opened, or why it cannot be."""

    opens: int = 0
    error: Exception | None = None


# ── frames: how the rest is written, and its length ──

FRAME: Final = Layout("<cQ")
MSGPACK: Final = b"M"
PICKLE: Final = b"P"
#: The last frame, and an empty one: the writer is to end.
END: Final = FRAME.pack(b"E", 0)

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_jobs: Final = msgspec.msgpack.Decoder(list[Accept | Finish | Settle]).decode
_decode_reply: Final = msgspec.msgpack.Decoder(Reply).decode
_PLAIN_JOBS: Final = frozenset({Accept, Finish, Settle})
_PLAIN_RESULTS: Final = frozenset({AcceptResult, FinishResult, SettleResult})


def pack_jobs(jobs: Sequence[Job]) -> tuple[bytes, bytes]:
    """A frame's head and the rest of it."""
    return _pack(list(jobs), _PLAIN_JOBS.issuperset(map(type, jobs)))


def unpack_jobs(kind: bytes, packed: bytes | memoryview) -> Sequence[Job]:
    found: Sequence[Job] = _decode_jobs(packed) if kind == MSGPACK else pickle.loads(packed)  # noqa: S301  our own
    return found


def pack_reply(reply: Reply) -> tuple[bytes, bytes]:
    return _pack(reply, _PLAIN_RESULTS.issuperset(map(type, reply.results)))


def unpack_reply(kind: bytes, packed: bytes | memoryview) -> Reply:
    found: Reply = _decode_reply(packed) if kind == MSGPACK else pickle.loads(packed)  # noqa: S301  our own
    return found


def pack_opened(opened: Opened) -> tuple[bytes, bytes]:
    return _pack(opened, plain=False)


def unpack_opened(packed: bytes | memoryview) -> Opened:
    found: Opened = pickle.loads(packed)  # noqa: S301  our own
    return found


def _pack(values: object, plain: bool) -> tuple[bytes, bytes]:
    if plain:
        try:
            packed = _encode(values)
            return FRAME.pack(MSGPACK, len(packed)), packed
        except (UnicodeEncodeError, OverflowError):
            pass
    packed = pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)
    return FRAME.pack(PICKLE, len(packed)), packed


def portable(error: Exception) -> Exception:
    """The error itself if it survives the way to another process, else what it says."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception:  # noqa: BLE001  whatever its class does with its arguments
        return StoreUnavailable(f"{type(error).__name__}: {error}")
    return error
