"""MACs, and the plain hashes that a few old schemes use instead."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hmac import compare_digest

from relay.errors import Rejected
from relay.schemes.base import Vouches, read_keys, refuse
from relay.schemes.encodings import DECODE, ENCODE, Algorithm, Key
from relay.schemes.mac_forms import quicker
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
        """For signatures in one place, which is most of them, without the steps that only explanations need."""
        macs = [keyed(key, self.algorithm) for secret in secrets if (key := self.key.read(secret))]
        if not macs or self.groups or self.numbered or self.plain_hash or self.content.holds_secret:
            return Signed.voucher(self, secrets)
        sent_in, read_values = self.signature.place.read, self._read_values if self.values else None
        content_of, signatures_of = self.content.compiled(), self.signature.compiled(DECODE[self.encoding])
        is_timely = self.timestamp.compiled() if self.timestamp else None

        def vouches(reader: Reader, now_s: float) -> bool:
            sent = sent_in(reader)
            if not sent or reader.several:  # `judge` knows how several headers go together
                return False
            if read_values:
                read_values(reader, sent)
            content, signatures = content_of(reader), signatures_of(sent)
            if content is None or not signatures:
                return False
            for mac in macs:
                digest = mac(content)
                for signature in signatures:
                    if compare_digest(digest, signature):
                        return is_timely is None or is_timely(reader, now_s)
            return False

        return quicker(self, macs, vouches)

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


def keyed(key: bytes, algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """HMAC (RFC 2104) with this key again and again: what depends on the key alone is hashed once. Over 2 KB it takes a
    third less than hmac.digest, which also finds its algorithm anew each time.
    """
    block_bytes = hashlib.new(algorithm).block_size
    block = (key if len(key) <= block_bytes else hashlib.new(algorithm, key).digest()).ljust(block_bytes, b"\0")
    begin_inner = hashlib.new(algorithm, bytes(byte ^ 0x36 for byte in block)).copy
    begin_outer = hashlib.new(algorithm, bytes(byte ^ 0x5C for byte in block)).copy

    def mac(content: bytes) -> bytes:
        inner, outer = begin_inner(), begin_outer()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()

    return mac
