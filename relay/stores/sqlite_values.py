"""How values stand in the file: texts, headers, states and the digests by which keys and event ids are known."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from relay.models import DeliveryState, EventState, RawHeaders

#: A state's number in the file is its place here.
DELIVERY_STATES: Final = (
    DeliveryState.RECEIVED,
    DeliveryState.PROCESSED,
    DeliveryState.FILTERED,
    DeliveryState.DEAD,
)
EVENT_STATES: Final = (EventState.PENDING, EventState.SENT, EventState.DEAD)
#: A state's number, by its name: a dictionary of plain strings is several times as quick as one of enumerations.
EVENT_STATE_NUMBERS: Final = {str(state): number for number, state in enumerate(EVENT_STATES)}
#: A script can throw a whole book; a person reads its first page.
MESSAGE_CHARACTERS_MAX: Final = 8_192
#: The first byte of headers that are kept as they came; the others are JSON.
PLAIN: Final = b"\0"
#: Sources and destinations with their environments, whose digests are kept begun.
BEGUN_MAX: Final = 256
REF: Final = re.compile(r"(?P<delivery>.+?)(?:\.r(?P<generation>[0-9]{1,9}))?\.(?P<position>[0-9]{1,9})", re.DOTALL)


def bound(text: str | None) -> str | bytes | None:
    """Text as SQLite takes it: lone surrogates (from hostile bytes or JSON) make it a blob in the same column."""
    if text is None or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def bindable(value: object) -> object:
    """`bound` for any value."""
    return bound(value) if isinstance(value, str) else value


def text_or_none(value: str | bytes | None) -> str | None:
    """The inverse of `bound`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def text(value: str | bytes) -> str:
    """The inverse of `bound` for a column that is never NULL."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def shortened(message: str | None) -> str | None:
    if message is not None and len(message) > MESSAGE_CHARACTERS_MAX:
        message = message[: MESSAGE_CHARACTERS_MAX - 1] + "…"
    return message


def pack_headers(headers: RawHeaders) -> bytes:
    """A NUL before each name and value; where one of them holds a NUL, JSON, each byte as one latin-1 character."""
    if not headers:
        return PLAIN
    packed = PLAIN + PLAIN.join(map(PLAIN.join, headers))
    if packed.count(PLAIN) == 2 * len(headers):
        return packed
    return msgspec.json.encode([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def unpack_headers(packed: bytes) -> RawHeaders:
    """The inverse of `pack_headers`."""
    if packed[:1] == PLAIN:
        words = iter(packed[1:].split(PLAIN)) if len(packed) > 1 else iter(())
        return tuple(zip(words, words, strict=True))
    pairs = msgspec.json.decode(packed, type=list[tuple[str, str]])
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)


def key_hash(source: str, environment: str, key: str) -> bytes:
    """16 bytes for what makes two deliveries the same. Senders choose keys: nobody can make two with one hash."""
    return _hash(_begun(source, environment), key)


def event_hash(destination: str, environment: str | None, event_id: str) -> bytes:
    """16 bytes for what makes two events the same, likewise."""
    return _hash(_begun(destination, environment), event_id)


def _hash(begun: blake2b, text: str) -> bytes:
    digest = begun.copy()
    try:
        digest.update(text.encode())
    except UnicodeEncodeError:
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


@lru_cache(maxsize=BEGUN_MAX)
def _begun(name: str, environment: str | None) -> blake2b:
    """The part that is the same for many. The lengths keep ("a", "bc") and ("ab", "c") apart."""
    whole = f"{len(name)} {-1 if environment is None else len(environment)} {name}{environment or ''}"
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16)


def make_ref(delivery_id: str, generation: int, position: int) -> str:
    """How a person names an event."""
    return f"{delivery_id}.{position}" if generation == 0 else f"{delivery_id}.r{generation}.{position}"


def parse_ref(ref: str) -> tuple[str, int, int] | None:
    """(delivery's id, generation, position); None when it is no ref."""
    found = REF.fullmatch(ref)
    return (found["delivery"], int(found["generation"] or 0), int(found["position"])) if found else None
