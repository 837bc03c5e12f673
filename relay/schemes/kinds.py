"""How a provider proves that a request is its own: one class per kind of scheme. Pure and total.

A scheme judges what a Reader reads (None: genuine) and signs a request the same way. Everything that can be compiled
or checked is, when the preset is loaded; judging 2 KB takes some 5 µs. The kinds:

mac         a MAC over a template of the request, sent in a header (most providers)
token       a fixed secret sent along; says nothing about the body
by_secret   the form of each configured secret chooses among other presets' schemes
function    one of the few schemes that no table can describe (relay/schemes/twilio.py)
none        anybody may send
"""

from __future__ import annotations

import hmac
import math
import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.encodings import (
    DECODE,
    DIGEST_BYTES,
    ENCODE,
    Algorithm,
    Encoding,
    Key,
    TimeUnit,
    decode_base64,
    read_time,
    write_time,
)
from relay.schemes.places import Place, Reader, Template, headers_of, utf8, with_header

#: More signatures than this in one request are not tried.
SIGNATURES_MAX: Final = 100
#: Longer values are not searched for signatures and times.
SIGNATURE_BYTES_MAX: Final = 16 * 1024

#: What the sender learns: the code's meaning and no more, the same for every cause.
MESSAGES: Final = {
    "signature_missing": "a signature that this source needs is absent",
    "signature_mismatch": "the signature is not this source's",
    "timestamp_stale": "the signed time is too far from now",
    "key_unavailable": "this source cannot check signatures now",
}
#: When several schemes refuse, the one that came nearest to a yes says why.
NEARNESS: Final = ("key_unavailable", "signature_missing", "signature_mismatch", "timestamp_stale")


def refuse(code: str, detail: str) -> Rejected:
    return Rejected(code, MESSAGES[code], detail)


def missing(place: Place) -> Rejected:
    return refuse("signature_missing", f"{place} is absent, empty, or sent twice with different values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme(ABC):
    """What every kind has: the places of the provider's delivery id and event type, best first.

    `headers` are the names of all headers that are read, in lower case.
    """

    delivery_id: tuple[Place, ...] = ()
    event_type: tuple[Place, ...] = ()
    headers: frozenset[bytes] = field(init=False, compare=False)

    #: True when anybody may send.
    open = False

    def __post_init__(self) -> None:
        names = self.headers_judged() | headers_of([*self.delivery_id, *self.event_type])
        object.__setattr__(self, "headers", names)  # it is frozen from here on

    @abstractmethod
    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        """None when one of the secrets vouches for the request. Never raises."""

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
        found = self.find_all(text)
        return found[0] if found else None

    def find_all(self, text: bytes) -> list[bytes]:
        """Every match, none of them empty. The prefix is anchored and its case counts."""
        if len(text) > SIGNATURE_BYTES_MAX:
            return []
        if self.pattern is not None:
            return [found for found in self.pattern.findall(text) if found][:SIGNATURES_MAX]
        if text.startswith(self.prefix) and len(text) > len(self.prefix):
            return [text[len(self.prefix) :]]
        return []


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The signed time. It is judged after the MAC; a tolerance of None leaves that side unjudged."""

    place: Place
    unit: TimeUnit = "s"
    tolerance_seconds: float | None = None
    future_seconds: float | None = None

    def judge(self, reader: Reader, now_s: float) -> Rejected | None:
        text = self.place.read(reader)
        if not text:
            return missing(self.place)
        signed_s = read_time(text, self.unit)
        if signed_s is None:
            return refuse("timestamp_stale", f"{self.place} is not a time in {self.unit}")
        # A time in whole seconds cannot be judged by a finer clock than its own.
        age = (math.floor(now_s) if self.unit == "s" else now_s) - signed_s
        if self.tolerance_seconds is not None and age > self.tolerance_seconds:
            return self._stale(age, "ago", self.tolerance_seconds)
        if self.future_seconds is not None and -age > self.future_seconds:
            return self._stale(-age, "in the future", self.future_seconds)
        return None

    def _stale(self, seconds: float, side: str, tolerance: float) -> Rejected:
        skew = f"{self.place} is {seconds:.0f} s {side}, the tolerance is {tolerance:g} s"
        return refuse("timestamp_stale", f"{skew}: an old request sent again, or a wrong clock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac(Scheme):
    """HMAC over a template. Any of the signatures sent and any of the secrets may match.

    `join` puts several headers of the signature's name together; without it they must be the same. `values` are named
    parts of the request that the template uses as `{name}`; one with no place of its own is part of the signature's
    header. `sign_headers` are templates of what to send: `{signature}`, `{t}` and `{id}`.
    """

    algorithm: Algorithm
    encoding: Encoding
    key: Key
    signature: Part
    join: bytes | None
    values: tuple[tuple[str, Part | re.Pattern[bytes]], ...]
    content: Template
    timestamp: Timestamp | None
    sign_headers: tuple[tuple[str, str], ...]

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        whole = self._signature_text(reader)
        if not whole:
            return missing(self.signature.place)
        self._read_values(reader, whole)
        content = self.content.render(reader)
        if content is None:
            return missing(self.content.missing(reader) or self.signature.place)
        keys = [key for secret in secrets if (key := self.key.read(secret))]
        if not keys:
            return refuse("key_unavailable", "no configured secret is a key of this scheme")
        signatures = self._signatures(whole)
        if not self._any_match(keys, content, signatures):
            sent = f"{self.signature.place} holds {len(signatures)} readable signature(s)"
            return refuse("signature_mismatch", f"{sent}, made with none of {len(keys)} secret(s), or of another body")
        return self.timestamp.judge(reader, now_s) if self.timestamp else None

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        key = self.key.read(secret)
        if key is None:
            raise ValueError(self.key_problem(secret))
        t = write_time(now_s, self.timestamp.unit if self.timestamp else "s")
        request = self._with_headers(request, {"t": t, "id": delivery_id}, last=False)
        reader = Reader(self.headers, request, url, request.body)
        self._read_values(reader, b"")
        for name, text in (("t", t), ("id", delivery_id)):
            reader.values[name] = reader.values.get(name) or utf8(text)
        content = self.content.render(reader)
        if content is None:
            raise ValueError(f"{self.content.missing(reader)} is absent from the request to sign")
        signature = ENCODE[self.encoding](hmac.digest(key, content, self.algorithm)).decode()
        return self._with_headers(request, {"t": t, "id": delivery_id, "signature": signature}, last=True)

    def headers_judged(self) -> frozenset[bytes]:
        parts = [part.place for _, part in self.values if isinstance(part, Part)]
        time = [self.timestamp.place] if self.timestamp else []
        return headers_of([self.signature.place, *parts, *time]) | self.content.headers

    def key_problem(self, secret: str) -> str | None:
        if self.key.read(secret) is not None:
            return None
        return f"is not {self.key.encoding}" if secret else "is empty"

    def with_tolerance(self, seconds: float) -> Scheme | None:
        if self.timestamp is None:
            return None
        future = None if self.timestamp.future_seconds is None else seconds
        return replace(self, timestamp=replace(self.timestamp, tolerance_seconds=seconds, future_seconds=future))

    def _signature_text(self, reader: Reader) -> bytes | None:
        if self.join is not None:
            for name in self.signature.place.headers:
                if len(several := reader.headers.get(name, ())) > 1:
                    return self.join.join(several)
        return self.signature.place.read(reader)

    def _read_values(self, reader: Reader, whole: bytes) -> None:
        for name, part in self.values:
            if isinstance(part, Part):
                text = part.place.read(reader)
                reader.values[name] = part.find(text) if text else None
            else:
                match = part.search(whole) if len(whole) <= SIGNATURE_BYTES_MAX else None
                reader.values[name] = match[1] or None if match else None

    def _signatures(self, whole: bytes) -> list[bytes]:
        size = DIGEST_BYTES[self.algorithm]
        decoded = (DECODE[self.encoding](text) for text in self.signature.find_all(whole))
        return [signature for signature in decoded if signature is not None and len(signature) == size]

    def _any_match(self, keys: Sequence[bytes], content: bytes, signatures: Sequence[bytes]) -> bool:
        if not signatures:
            return False
        for key in keys:
            digest = hmac.digest(key, content, self.algorithm)
            if any(hmac.compare_digest(digest, signature) for signature in signatures):
                return True
        return False

    def _with_headers(self, request: Request, values: dict[str, str], *, last: bool) -> Request:
        headers = request.headers
        for name, template in self.sign_headers:
            if ("{signature}" in template) == last:
                headers = with_header(headers, name, utf8(fill(template, values)))
        return replace(request, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Scheme):
    """A fixed secret in a header, the query or the body. `basic`: it is `user:password`, sent as HTTP Basic."""

    token: Part
    basic: bool
    sign_headers: tuple[tuple[str, str], ...]
    sign_query: tuple[tuple[str, str], ...] = ()

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        text = self.token.place.read(reader)
        if not text:
            return missing(self.token.place)
        keys = [utf8(secret) for secret in secrets if secret]
        if not keys:
            return refuse("key_unavailable", "no secret is configured")
        sent = self.token.find(text)
        if sent is not None and self.basic:
            sent = decode_base64(sent)
        if not sent or not any(hmac.compare_digest(key, sent) for key in keys):
            return refuse("signature_mismatch", f"{self.token.place} is none of {len(keys)} secret(s)")
        return None

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        token = b64encode(utf8(secret)).decode() if self.basic else secret
        headers, query = request.headers, request.query
        for name, template in self.sign_headers:
            headers = with_header(headers, name, utf8(fill(template, {"token": token, "id": delivery_id})))
        for name, template in self.sign_query:
            pair = f"{quote(name, safe='')}={quote(fill(template, {'token': token}), safe='')}"
            query = f"{query}&{pair}" if query else pair
        return replace(request, headers=headers, query=query)

    def headers_judged(self) -> frozenset[bytes]:
        return self.token.place.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class BySecret(Scheme):
    """The first choice with a prefix of the secret (an empty one fits all) is that secret's only scheme."""

    choices: tuple[tuple[tuple[str, ...], Scheme], ...]

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        refusals: list[Rejected] = []
        for _, scheme in self.choices:
            theirs = [secret for secret in secrets if self.scheme_of(secret) is scheme]
            refusal = scheme.judge(reader, theirs, now_s) if theirs else None
            if theirs and refusal is None:
                return None
            refusals += [refusal] if refusal else []
        none = refuse("key_unavailable", "no secret is configured")
        return max(refusals, key=lambda refusal: NEARNESS.index(refusal.code), default=none)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        return self.scheme_of(secret).sign(secret, request, url, now_s, delivery_id)

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset[bytes]().union(*(scheme.headers for _, scheme in self.choices))

    def key_problem(self, secret: str) -> str | None:
        return self.scheme_of(secret).key_problem(secret)

    def with_tolerance(self, seconds: float) -> Scheme | None:
        choices = tuple((prefixes, scheme.with_tolerance(seconds) or scheme) for prefixes, scheme in self.choices)
        return replace(self, choices=choices)

    def scheme_of(self, secret: str) -> Scheme:
        return next(scheme for prefixes, scheme in self.choices if secret.startswith(prefixes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Function(Scheme):
    """A scheme that is code. `judged` and `signed` do what the methods say; `reads` are the headers they read."""

    judged: Callable[[Reader, Sequence[str]], Rejected | None]
    signed: Callable[[str, Request, str], Request]
    reads: frozenset[bytes]

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        return self.judged(reader, secrets)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        for place in self.delivery_id:
            for name in place.headers:
                headers = with_header(request.headers, name.decode(), utf8(delivery_id))
                request = replace(request, headers=headers)
        return self.signed(secret, request, url)

    def headers_judged(self) -> frozenset[bytes]:
        return self.reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Scheme):
    """Anybody may send: chosen by name only, and said aloud at start."""

    open = True

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        return None

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        return request

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()

    def key_problem(self, secret: str) -> str | None:
        return None


def fill(template: str, values: dict[str, str]) -> str:
    """`{name}` replaced by each value, once: what a value holds is not looked at again."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
