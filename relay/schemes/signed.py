"""What MACs and public-key signatures share: where the signatures are, what is signed, and when."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import (
    SECRET_SHOWN,
    SIGNATURE_BYTES_MAX,
    SIGNATURES_MAX,
    Part,
    Scheme,
    Timestamp,
    fill,
    missing,
    nearest_refusal,
    refuse,
)
from relay.schemes.encodings import DECODE, ENCODE, Encoding, write_time
from relay.schemes.places import Place, Reader, Template, headers_of, utf8, with_header
from relay.schemes.writing import put

#: More groups than this in one signature header are not tried: each of them means hashing the whole body.
GROUPS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key to try: what explanations call it, the secret's bytes (which some contents hold), and the key itself."""

    name: str
    secret: bytes
    key: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Scheme):
    """A signature over a template of the request. Any of the signatures sent and any of the keys may match.

    `join` puts several headers of the signature's name together; without it they must be the same. `groups` splits
    what stands there into groups, each with its own values and signatures, any of which may vouch. `numbered` are
    further places of signatures, for providers that send one header per key. `values` are named parts of the request
    that the template uses as `{name}`; one with no place of its own is part of the signature's header. `sign_headers`
    are templates of what to send: `{signature}`, `{t}` and `{id}`.
    """

    encoding: Encoding
    signature: Part
    join: bytes | None
    values: tuple[tuple[str, Part | re.Pattern[bytes]], ...]
    content: Template
    timestamp: Timestamp | None
    sign_headers: tuple[tuple[str, str], ...]
    groups: re.Pattern[bytes] | None = None
    numbered: tuple[Place, ...] = ()

    @abstractmethod
    def candidates(self, reader: Reader, secrets: Sequence[str], now_s: float) -> list[Candidate] | Rejected:
        """The keys to try, or why there are none."""

    @abstractmethod
    def matches(self, reader: Reader, candidate: Candidate, content: bytes, signatures: Sequence[bytes]) -> bool:
        """Whether the key made one of the signatures over this content."""

    @abstractmethod
    def signing_key(self, secret: str) -> Candidate:
        """The key to sign with. Raises ValueError with a sentence."""

    @abstractmethod
    def make(self, candidate: Candidate, content: bytes) -> bytes:
        """A signature."""

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        groups = self._groups(reader)
        if not groups:
            return missing(self.signature.place)
        candidates = self.candidates(reader, secrets, now_s)
        if isinstance(candidates, Rejected):
            return candidates
        refusals: list[Rejected] = []
        for texts in groups:
            refusal = self._judge_group(reader, texts, candidates, now_s)
            if refusal is None:
                return None
            refusals.append(refusal)
        return nearest_refusal(refusals)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        key = self.signing_key(secret)
        t = write_time(now_s, self.timestamp.unit if self.timestamp else "s")
        request = self._with_headers(request, {"t": t, "id": delivery_id}, last=False)
        reader = Reader.of(self.headers, request, url, request.body, self.options)
        self._read_values(reader, b"")
        for name, text in (("t", t), ("id", delivery_id)):
            reader.values[name] = reader.values.get(name) or utf8(text)
        content = self._content(reader, key.secret)
        if content is None:
            raise ValueError(f"{self.content.missing(reader)} is absent from the request to sign")
        signature = ENCODE[self.encoding](self.make(key, content)).decode()
        if not self.signature.place.headers:
            return put(request, self.signature.place.text, signature)
        return self._with_headers(request, {"t": t, "id": delivery_id, "signature": signature}, last=True)

    def headers_judged(self) -> frozenset[bytes]:
        parts = [part.place for _, part in self.values if isinstance(part, Part)]
        time = [self.timestamp.place] if self.timestamp else []
        return headers_of([self.signature.place, *self.numbered, *parts, *time]) | self.content.headers

    def with_tolerance(self, seconds: float) -> Scheme | None:
        if self.timestamp is None:
            return None
        future = None if self.timestamp.future_seconds is None else seconds
        return replace(self, timestamp=replace(self.timestamp, tolerance_seconds=seconds, future_seconds=future))

    def _judge_group(
        self, reader: Reader, texts: Sequence[bytes], candidates: Sequence[Candidate], now_s: float
    ) -> Rejected | None:
        self._read_values(reader, texts[0])
        content = self._content(reader, SECRET_SHOWN)
        if content is None:
            return missing(self.content.missing(reader) or self.signature.place)
        reader.note("what is signed", content)
        signatures = self._signatures(texts)
        if not any(self._vouches(reader, candidate, content, signatures) for candidate in candidates):
            sent = f"{self.signature.place} holds {len(signatures)} readable signature(s)"
            return refuse(
                "signature_mismatch", f"{sent}, made with none of {len(candidates)} key(s), or of another body"
            )
        return self.timestamp.judge(reader, now_s) if self.timestamp else None

    def _vouches(self, reader: Reader, candidate: Candidate, content: bytes, signatures: Sequence[bytes]) -> bool:
        if not signatures and reader.steps is None:
            return False
        if self.content.holds_secret:
            content = self._content(reader, candidate.secret) or b""
        return self.matches(reader, candidate, content, signatures)

    def _content(self, reader: Reader, secret: bytes) -> bytes | None:
        reader.secret = secret
        content = self.content.render(reader)
        reader.secret = SECRET_SHOWN  # what is looked at from here on may be shown
        return content

    def _groups(self, reader: Reader) -> list[list[bytes]]:
        """The texts that hold signatures, by groups: all of a group belong to the same values."""
        whole = self._signature_text(reader)
        found = [(self.signature.place, whole), *((place, place.read(reader)) for place in self.numbered)]
        if reader.steps is not None:
            for place, text in found:
                if text or place is self.signature.place:
                    reader.note(str(place), text)
        texts = [text for _, text in found if text]
        if self.groups is None or not whole:
            return [texts] if texts else []
        if len(whole) > SIGNATURE_BYTES_MAX:
            return [[whole]]
        return [[group] for group in self.groups.split(whole) if group][:GROUPS_MAX]

    def _signature_text(self, reader: Reader) -> bytes | None:
        if self.join is not None:
            for name in self.signature.place.headers:
                if name in reader.several:
                    return self.join.join(reader.several[name])
        return self.signature.place.read(reader)

    def _read_values(self, reader: Reader, whole: bytes) -> None:
        for name, part in self.values:
            if isinstance(part, Part):
                text = part.place.read(reader)
                reader.values[name] = part.find(text) if text else None
            else:
                match = part.search(whole) if len(whole) <= SIGNATURE_BYTES_MAX else None
                reader.values[name] = match[1] or None if match else None

    def _signatures(self, texts: Sequence[bytes]) -> list[bytes]:
        decode = DECODE[self.encoding]
        decoded = [decode(found) for text in texts for found in self.signature.find_all(text)]
        return [signature for signature in decoded if signature][:SIGNATURES_MAX]

    def _with_headers(self, request: Request, values: dict[str, str], *, last: bool) -> Request:
        headers = request.headers
        for name, template in self.sign_headers:
            if ("{signature}" in template) == last:
                headers = with_header(headers, name, utf8(fill(template, values)))
        return request.but(headers=headers)
