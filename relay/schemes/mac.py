"""MACs, and the plain hashes that a few old schemes use instead."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from relay.errors import Rejected
from relay.schemes.base import Vouches, read_keys, refuse
from relay.schemes.encodings import DECODE, ENCODE, Algorithm, Key
from relay.schemes.places import Reader
from relay.schemes.signed import Candidate, Signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac(Signed):
    """HMAC over a template. With `plain_hash` the content holds `{secret}`, and is hashed without a key."""

    algorithm: Algorithm
    key: Key
    plain_hash: bool = False

    def candidates(self, reader: Reader, secrets: Sequence[str], now_s: float) -> list[Candidate] | Rejected:
        keys = read_keys(reader, secrets, self.key)
        if not keys:
            return refuse("key_unavailable", "no configured secret is a key of this scheme")
        return [Candidate(f"secrets[{index}]", key, key) for index, key in keys]

    def voucher(self, secrets: Sequence[str]) -> Vouches:
        """For a signature in one header, which is most of them, without the steps that only explanations need."""
        keys = [key for secret in secrets if (key := self.key.read(secret))]
        plain = self.signature.place.text.startswith("header:") and not (self.groups or self.numbered)
        if not keys or not plain or self.plain_hash or self.content.holds_secret:
            return Signed.voucher(self, secrets)
        (name,) = self.signature.place.headers
        content_of, algorithm, timestamp = self.content.compiled(), self.algorithm, self.timestamp
        signatures_of = self.signature.compiled(DECODE[self.encoding])

        def vouches(reader: Reader, now_s: float) -> bool:
            sent = reader.headers.get(name, ())
            if len(sent) != 1 or not sent[0]:
                return False
            if self.values:
                self._read_values(reader, sent[0])
            content = content_of(reader)
            signatures = signatures_of(sent[0])
            if content is None or not signatures:
                return False
            for key in keys:
                digest = hmac.digest(key, content, algorithm)
                for signature in signatures:
                    if hmac.compare_digest(digest, signature):
                        return timestamp is None or timestamp.judge(reader, now_s) is None
            return False

        return vouches

    def matches(self, reader: Reader, candidate: Candidate, content: bytes, signatures: Sequence[bytes]) -> bool:
        digest = self.make(candidate, content)
        same = any(hmac.compare_digest(digest, signature) for signature in signatures)
        if reader.steps is not None:
            verdict = "was sent" if same else f"is none of the {len(signatures)} sent"
            reader.note(f"signature by {candidate.name}", f"{ENCODE[self.encoding](digest).decode()} {verdict}")
        return same

    def signing_key(self, secret: str) -> Candidate:
        key = self.key.read(secret)
        if key is None:
            raise ValueError(self.key_problem(secret))
        return Candidate("the secret", key, key)

    def make(self, candidate: Candidate, content: bytes) -> bytes:
        if self.plain_hash:
            return hashlib.new(self.algorithm, content, usedforsecurity=False).digest()
        return hmac.digest(candidate.key, content, self.algorithm)

    def key_problem(self, secret: str) -> str | None:
        if self.key.read(secret) is not None:
            return None
        return f"is not {self.key.encoding}" if secret else "is empty"
