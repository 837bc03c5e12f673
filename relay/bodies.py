"""Content-Encoding undone under a cap. Pure; never inflates far past the cap, whatever the bytes say.

The encoded bytes are what a provider signs; what stands in them is what a transform reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import brotli
import zstandard

from relay.errors import Rejected
from relay.models import RawHeaders

#: Codings in a row that are undone; nobody sends more than one, and each is a chance to inflate again.
CODINGS_MAX: Final = 3
#: Members of one gzip body, frames of one zstd body: each costs a copy of what follows it.
MEMBERS_MAX: Final = 64
#: RFC 9659: a zstd content coding needs no window over 8 MiB.
ZSTD_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024

Decoder = Callable[[bytes, int], bytes]


class _TooLargeError(Exception):
    """There is more than the cap."""


class _UndecodableError(Exception):
    """The body is not in the coding that its header names."""


def decode_body(headers: RawHeaders, body: bytes, bytes_max: int) -> bytes | Rejected:
    """The body without its content codings; `body` itself when there are none, or when it is empty."""
    if not any(name.lower() == b"content-encoding" for name, _ in headers):
        return body
    codings = _codings(headers)
    if not codings or not body:
        return body
    if len(codings) > CODINGS_MAX or any(coding not in DECODERS for coding in codings):
        return Rejected("unsupported_encoding", "Content-Encoding is not supported", f"Content-Encoding: {codings!r}")
    try:
        for coding in reversed(codings):  # the last one named was put on last
            body = DECODERS[coding](body, bytes_max)
    except _TooLargeError:
        return Rejected("body_too_large", f"the decoded body is over {bytes_max} bytes")
    except _UndecodableError as error:
        return Rejected("body_undecodable", "the body is not in its Content-Encoding", f"{codings!r}: {error}")
    return body


def content_type(headers: RawHeaders) -> str:
    """The media type in lower case without parameters; empty when there is none."""
    for name, value in headers:
        if name.lower() == b"content-type":
            return value.partition(b";")[0].strip().lower().decode("latin-1")
    return ""


def _codings(headers: RawHeaders) -> list[str]:
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"content-encoding"]
    named = (coding.strip().lower() for coding in ",".join(values).split(","))
    return [coding for coding in named if coding not in ("", "identity")]


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    left, rest = bytes_max, body
    for _ in range(MEMBERS_MAX):
        part, rest = _inflate_one(rest, left, wbits=31)
        parts.append(part)
        left -= len(part)
        if not rest.strip(b"\0"):  # tools pad the end with zeros
            return b"".join(parts)
    raise _UndecodableError(f"it has over {MEMBERS_MAX} members")


def _inflate(body: bytes, bytes_max: int) -> bytes:
    """`deflate` is zlib's format by the RFC, and a raw stream from many senders."""
    looks_like_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    for wbits in (15, -15) if looks_like_zlib else (-15,):
        try:
            part, rest = _inflate_one(body, bytes_max, wbits)
        except _UndecodableError as error:
            reason = str(error)
            continue
        if not rest:
            return part
        reason = "bytes follow its end"
    raise _UndecodableError(reason)


def _inflate_one(body: bytes, bytes_max: int, wbits: int) -> tuple[bytes, bytes]:
    """One zlib stream: what it holds, and the bytes after it."""
    decoder = zlib.decompressobj(wbits)
    try:
        part = decoder.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise _UndecodableError(str(error)) from error
    if len(part) > bytes_max:
        raise _TooLargeError
    if not decoder.eof:
        raise _UndecodableError("it ends too early")
    return part, decoder.unused_data


def _unbrotli(body: bytes, bytes_max: int) -> bytes:
    decoder = brotli.Decompressor()
    parts: list[bytes] = []
    size, feed = 0, body
    try:
        while not decoder.is_finished():
            part = decoder.process(feed, output_buffer_limit=bytes_max - size + 1)
            feed = b""
            if not part and decoder.can_accept_more_data() and not decoder.is_finished():
                raise _UndecodableError("it ends too early")
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise _TooLargeError
    except brotli.error as error:
        raise _UndecodableError(str(error)) from error
    return b"".join(parts)


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    """Measured first with bounded reads, for the reader that stops at a size does not tell a truncated body."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=max(ZSTD_WINDOW_BYTES_MAX, bytes_max))
    try:
        with decompressor.stream_reader(body, read_across_frames=True) as reader:
            if len(reader.read(bytes_max + 1)) > bytes_max:
                raise _TooLargeError
        return b"".join(_zstd_frames(decompressor, body))
    except zstandard.ZstdError as error:
        raise _UndecodableError(str(error)) from error


def _zstd_frames(decompressor: zstandard.ZstdDecompressor, body: bytes) -> Iterator[bytes]:
    for _ in range(MEMBERS_MAX):
        decoder = decompressor.decompressobj()
        yield decoder.decompress(body)
        if not decoder.eof:
            raise _UndecodableError("it ends too early")
        body = decoder.unused_data
        if not body:
            return
    raise _UndecodableError(f"it has over {MEMBERS_MAX} frames")


DECODERS: Final[Mapping[str, Decoder]] = MappingProxyType(
    {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate, "br": _unbrotli, "zstd": _unzstd}
)
