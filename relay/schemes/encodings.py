"""Signatures, keys and times as text. Pure and total: what cannot be read is None."""

from __future__ import annotations

import binascii
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from relay.schemes.places import utf8

Algorithm: TypeAlias = Literal["sha1", "sha256", "sha512"]
Encoding: TypeAlias = Literal["hex", "hex_lower", "base64", "base64url"]
KeyEncoding: TypeAlias = Literal["utf8", "hex", "base64"]
TimeUnit: TypeAlias = Literal["s", "ms", "iso"]


@dataclass(frozen=True, slots=True)
class Key:
    """How a configured secret becomes the key's bytes."""

    encoding: KeyEncoding = "utf8"
    strip: tuple[str, ...] = ()

    def read(self, secret: str) -> bytes | None:
        """The key; None when the secret is empty or not in its encoding."""
        for prefix in self.strip:
            if secret.startswith(prefix):
                secret = secret[len(prefix) :]
                break
        text = utf8(secret)
        if self.encoding == "utf8":
            return text or None
        return (decode_hex(text) if self.encoding == "hex" else decode_base64(padded(text))) or None


def decode_base64(text: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def decode_base64url(text: bytes) -> bytes | None:
    """With or without its padding."""
    if b"+" in text or b"/" in text:
        return None
    return decode_base64(padded(text.replace(b"-", b"+").replace(b"_", b"/")))


def padded(text: bytes) -> bytes:
    """Base64 with the padding that it should have."""
    bare = text.rstrip(b"=")
    return bare + b"=" * (-len(bare) % 4)


def decode_hex(text: bytes) -> bytes | None:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


def decode_hex_lower(text: bytes) -> bytes | None:
    return decode_hex(text) if text == text.lower() else None


def read_time(text: bytes, unit: TimeUnit) -> float | None:
    """Unix seconds, None when the text is no time."""
    if unit == "iso":
        try:
            moment = datetime.fromisoformat(text[:64].decode("ascii"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if not text.isdigit() or len(text) > 16:
        return None
    return int(text) / 1000 if unit == "ms" else int(text)


def write_time(now_s: float, unit: TimeUnit) -> str:
    if unit == "iso":
        return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(int(now_s * 1000) if unit == "ms" else int(now_s))


DIGEST_BYTES: Final[dict[Algorithm, int]] = {"sha1": 20, "sha256": 32, "sha512": 64}
DECODE: Final[dict[Encoding, Callable[[bytes], bytes | None]]] = {
    "hex": decode_hex,
    "hex_lower": decode_hex_lower,
    "base64": decode_base64,
    "base64url": decode_base64url,
}
ENCODE: Final[dict[Encoding, Callable[[bytes], bytes]]] = {
    "hex": binascii.hexlify,
    "hex_lower": binascii.hexlify,
    "base64": b64encode,
    "base64url": lambda digest: urlsafe_b64encode(digest).rstrip(b"="),
}
