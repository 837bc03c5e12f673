"""What every kind of scheme has in common: the contract, refusals, parts of places, the signed time. Pure and total.

A scheme judges what a Reader reads (None: genuine) and signs a request the same way. Everything that can be compiled
or checked is, when the preset is loaded; judging 2 KB takes some 10 µs. The kinds, a module each:

mac         a MAC over a template of the request, sent in a header (most providers)
hash        a plain hash over a template that holds the secret (a few old schemes; in mac.py)
asymmetric  a public key: Ed25519, ECDSA, RSA
jwt         a signed token, mostly with a hash of the body among its claims
token       a fixed secret sent along; says nothing about the body
by_secret   the form of each configured secret chooses among other presets' schemes
function    one of the few schemes that no table can describe, a module each
none        anybody may send
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.encodings import Key, TimeUnit, read_time
from relay.schemes.places import Place, Reader, headers_of

#: More signatures than this in one request are not tried.
SIGNATURES_MAX: Final = 100
#: Longer values are not searched for signatures and times.
SIGNATURE_BYTES_MAX: Final = 16 * 1024

#: What the sender learns: the code's meaning and no more, the same for every cause.
MESSAGES: Final = {
    "signature_missing": "a signature that this source needs is absent",
    "signature_mismatch": "the signature is not this source's",
    "wrong_secret_form": "the signature is not this source's",
    "timestamp_stale": "the signed time is too far from now",
    "body_altered": "the body is not the one that was signed",
    "key_unavailable": "this source cannot check signatures now",
    "key_unreachable": "the provider's public key cannot be fetched now, send it again",
}
#: When several schemes refuse, the one that came nearest to a yes says why.
NEARNESS: Final = (
    "key_unavailable",
    "signature_missing",
    "signature_mismatch",
    "body_altered",
    "timestamp_stale",
    "key_unreachable",
)
#: What stands in an explanation where the secret stands in what is signed.
SECRET_SHOWN: Final = b"<the secret>"
NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})

#: What is read, and now in unix seconds → True where `judge` gives None. False says nothing: it is for `judge` to say.
Vouches: TypeAlias = Callable[[Reader, float], bool]


def refuse(code: str, detail: str) -> Rejected:
    return Rejected(code, MESSAGES[code], detail)


def missing(place: Place) -> Rejected:
    return refuse("signature_missing", f"{place} is absent, empty, or sent twice with different values")


def nearest_refusal(refusals: Sequence[Rejected]) -> Rejected:
    """Of several refusals the one that came nearest to a yes, the first of them."""
    none = refuse("key_unavailable", "no secret is configured")
    return max(refusals, key=lambda refusal: NEARNESS.index(refusal.code), default=none)


def read_keys(reader: Reader, secrets: Sequence[str], key: Key) -> list[tuple[int, bytes]]:
    """The secrets that are keys, each with its number in the configuration."""
    keys: list[tuple[int, bytes]] = []
    for index, secret in enumerate(secrets):
        found = key.read(secret)
        if found:
            keys.append((index, found))
        if reader.steps is not None:
            read = f"read as {key.encoding}, {len(found)} bytes" if found else f"is not {key.encoding}, or empty"
            reader.note(f"secrets[{index}]", read)
    return keys


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document with public keys that lives on the provider's server: what to fetch before this request can be judged.

    `url` was checked against what the preset pins. `body` is POSTed as JSON (None: GET). `holds` is what the document
    must contain (a key's id): one from the cache that does not is fetched anew. `name` is what the scheme finds the
    document by in `Reader.documents`, and the cache keeps it under.
    """

    name: str
    url: str
    body: bytes | None = None
    holds: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme(ABC):
    """What every kind has: the places of the provider's delivery id and event type, best first.

    `options` is what the source's [sources.NAME.scheme] says beyond that, by the names the preset declares. `headers`
    are the names of all headers that are read, in lower case.
    """

    delivery_id: tuple[Place, ...] = ()
    event_type: tuple[Place, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: NO_OPTIONS, compare=False)
    headers: frozenset[bytes] = field(init=False, compare=False)

    #: True when anybody may send.
    open = False

    def __post_init__(self) -> None:
        names = self.headers_judged() | headers_of([*self.delivery_id, *self.event_type])
        object.__setattr__(self, "headers", names)  # it is frozen from here on

    @property
    def remote(self) -> bool:
        """Whether `wanted` may name something."""
        return False

    @abstractmethod
    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        """None when one of the secrets vouches for the request. Never raises."""

    def voucher(self, secrets: Sequence[str]) -> Vouches:
        """`judge` with the same secrets again and again, in a form that may be quicker."""
        return lambda reader, now_s: self.judge(reader, secrets, now_s) is None

    def wanted(self, reader: Reader) -> tuple[Wanted, ...]:
        """The documents to fetch before `judge`, apart from those that are configured. One that could not be had is
        absent from `reader.documents`, and `judge` then refuses with key_unreachable.
        """
        return ()

    def pinned(self, secrets: Sequence[str]) -> bool:
        """Do these secrets, or the options, hold the public keys, so that nothing is ever fetched?"""
        return False

    def key_hosts(self, secrets: Sequence[str]) -> tuple[str, ...]:
        """The hosts that `wanted` may name as the source is configured: `relay check` tries to reach them."""
        return ()

    def options_wanting(self, secrets: Sequence[str]) -> tuple[str, ...]:
        """The options without which nothing can be fetched, where these secrets do not do without."""
        return ()

    @abstractmethod
    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """The request with what `judge` wants to see. Raises ValueError when the secret cannot be a key."""

    @abstractmethod
    def headers_judged(self) -> frozenset[bytes]:
        """The headers that `judge` reads."""

    def key_problem(self, secret: str) -> str | None:
        """Why this secret can never vouch for anything, or None."""
        return None if secret else "is empty"

    def with_tolerance(self, seconds: float) -> Scheme | None:
        """The same with another tolerance; None when the scheme judges no time."""
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """A place, and which part of what stands there counts: what follows a prefix, or what a pattern's group finds."""

    place: Place
    prefix: bytes = b""
    pattern: re.Pattern[bytes] | None = None

    def find(self, text: bytes) -> bytes | None:
        """The first match, None without one or when it is empty."""
        if self.pattern is None:
            start = len(self.prefix)
            return text[start:] if text.startswith(self.prefix) and start < len(text) <= SIGNATURE_BYTES_MAX else None
        found = self.find_all(text)
        return found[0] if found else None

    def find_all(self, text: bytes) -> list[bytes]:
        """Every match, none of them empty. The prefix is anchored and its case counts."""
        if len(text) > SIGNATURE_BYTES_MAX:
            return []
        if self.pattern is not None:
            return [found for found in self.pattern.findall(text) if found][:SIGNATURES_MAX]
        found = self.find(text)
        return [found] if found else []

    def compiled(self, decode: Callable[[bytes], bytes | None]) -> Callable[[bytes], Sequence[bytes]]:
        """`find_all` with every match decoded, shorter where there is only a prefix."""
        prefix, start, pattern = self.prefix, len(self.prefix), self.pattern

        def decode_all(text: bytes) -> Sequence[bytes]:
            found = pattern.findall(text) if pattern is not None and len(text) <= SIGNATURE_BYTES_MAX else []
            if len(found) == 1:
                signature = decode(found[0])
                return (signature,) if signature else ()
            return [signature for each in self.find_all(text) if (signature := decode(each))]

        def decode_one(text: bytes) -> Sequence[bytes]:
            if not text.startswith(prefix) or len(text) > SIGNATURE_BYTES_MAX:
                return ()
            signature = decode(text[start:])
            return (signature,) if signature else ()

        return decode_all if self.pattern is not None else decode_one


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The signed time. It is judged after the MAC; a tolerance of None leaves that side unjudged."""

    place: Place
    unit: TimeUnit = "s"
    tolerance_seconds: float | None = None
    future_seconds: float | None = None

    def judge(self, reader: Reader, now_s: float) -> Rejected | None:
        text = self.place.read(reader)
        if reader.steps is not None:
            reader.note(f"signed time, {self.place}", text)
        if not text:
            return missing(self.place)
        signed_s = read_time(text, self.unit)
        if signed_s is None:
            return refuse("timestamp_stale", f"{self.place} is not a time in {self.unit}")
        # A time in whole seconds cannot be judged by a finer clock than its own.
        age = (math.floor(now_s) if self.unit == "s" else now_s) - signed_s
        if reader.steps is not None:
            reader.note("its distance from now", self._distance(age))
        if self.tolerance_seconds is not None and age > self.tolerance_seconds:
            return self._stale(age, f"{age:.0f} s ago", self.tolerance_seconds)
        if self.future_seconds is not None and -age > self.future_seconds:
            return self._stale(age, f"{-age:.0f} s in the future", self.future_seconds)
        return None

    def compiled(self) -> Vouches:
        """`judge` as a yes or no, shorter."""
        read, unit, past, future = self.place.read, self.unit, self.tolerance_seconds, self.future_seconds

        def is_timely(reader: Reader, now_s: float) -> bool:
            text = read(reader)
            signed_s = read_time(text, unit) if text else None
            if signed_s is None:
                return False
            age = (math.floor(now_s) if unit == "s" else now_s) - signed_s
            return (past is None or age <= past) and (future is None or -age <= future)

        return is_timely

    def _distance(self, age: float) -> str:
        past, future = self.tolerance_seconds, self.future_seconds
        side = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s in the future"
        before = "of any age" if past is None else f"up to {past:g} s old"
        after = "any" if future is None else f"up to {future:g} s"
        return f"{side}; accepted {before}, and {after} in the future"

    def _stale(self, age: float, distance: str, tolerance: float) -> Rejected:
        why = (
            f"{self.place} is {distance}, the tolerance is {tolerance:g} s: an old request sent again, or a wrong clock"
        )
        return replace(refuse("timestamp_stale", why), skew_seconds=round(age, 3))


def fill(template: str, values: dict[str, str]) -> str:
    """`{name}` replaced by each value, once: what a value holds is not looked at again."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
