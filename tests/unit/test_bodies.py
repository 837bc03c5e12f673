"""Content-Encoding undone: what comes out, what is refused, and that a bomb is never inflated."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.bodies import CODINGS_MAX, MEMBERS_MAX, content_type, decode_body
from relay.errors import Rejected

MIB = 1024 * 1024
TEXT = b'{"hello":"world"}' * 20


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return encoder.compress(data) + encoder.flush()


def zstd_stream(data: bytes) -> bytes:
    """Without the size in the header."""
    encoder = zstandard.ZstdCompressor().compressobj()
    return encoder.compress(data) + encoder.flush()


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "upper case": ("GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
    "zstd stream": ("zstd", zstd_stream),
}


def decode(coding: str | list[str], body: bytes, bytes_max: int = MIB) -> bytes | str:
    """The decoded body, or the rejection's code."""
    codings = [coding] if isinstance(coding, str) else coding
    headers = tuple((b"Content-Encoding", value.encode()) for value in codings)
    answer = decode_body(((b"Host", b"x"), *headers), body, bytes_max)
    return answer.code if isinstance(answer, Rejected) else answer


@pytest.mark.parametrize("name", CODERS)
class TestEach:
    @pytest.mark.parametrize("data", [b"", b"x", TEXT, bytes(200_000), os.urandom(100_000)], ids=len)
    def test_decoded(self, name: str, data: bytes) -> None:
        coding, encode = CODERS[name]
        assert decode(coding, encode(data)) == data

    def test_exactly_at_the_cap(self, name: str) -> None:
        coding, encode = CODERS[name]
        for data in (bytes(100_000), os.urandom(100_000)):
            assert decode(coding, encode(data), 100_000) == data
            assert decode(coding, encode(data), 99_999) == "body_too_large"

    def test_a_bomb_is_not_inflated(self, name: str) -> None:
        coding, encode = CODERS[name]
        bomb = encode(bytes(100 * MIB))
        assert len(bomb) < MIB
        tracemalloc.start()
        try:
            assert decode(coding, bomb, MIB) == "body_too_large"
            assert tracemalloc.get_traced_memory()[1] < 5 * MIB
        finally:
            tracemalloc.stop()

    def test_truncated(self, name: str) -> None:
        coding, encode = CODERS[name]
        whole = encode(TEXT)
        for length in range(1, len(whole)):
            assert decode(coding, whole[:length]) == "body_undecodable", length

    @pytest.mark.parametrize("garbage", [b"x", b"trailing garbage", b"\x1f\x8b", b"\xff" * 50])
    def test_trailing_garbage(self, name: str, garbage: bytes) -> None:
        coding, encode = CODERS[name]
        assert decode(coding, encode(TEXT) + garbage) == "body_undecodable"

    @settings(max_examples=50, deadline=None)
    @given(body=st.binary(max_size=200), index=st.integers(0, 60), flip=st.integers(1, 255))
    def test_never_raises(self, name: str, body: bytes, index: int, flip: int) -> None:
        coding, encode = CODERS[name]
        changed = bytearray(encode(body))
        changed[index % len(changed)] ^= flip
        for data in (body, bytes(changed)):
            answer = decode(coding, data, 1000)
            assert isinstance(answer, bytes) or answer in ("body_undecodable", "body_too_large")


def test_without_a_coding_it_is_the_same_object() -> None:
    for headers in ((), ((b"content-encoding", b"identity"),), ((b"content-encoding", b" , Identity,"),)):
        assert decode_body(headers, TEXT, 5) is TEXT


@pytest.mark.parametrize("name", CODERS)
def test_an_empty_body_is_empty(name: str) -> None:
    assert decode(CODERS[name][0], b"") == b""


@pytest.mark.parametrize("coding", ["compress", "gzip;q=1", "exi", "gzip2", "aes128gcm", "gzip, what", "\xff"])
def test_unknown_codings(coding: str) -> None:
    assert decode(coding, gzip.compress(TEXT)) == "unsupported_encoding"


class TestSeveralInARow:
    def test_the_last_named_is_undone_first(self) -> None:
        body = brotli.compress(gzip.compress(TEXT))
        assert decode("gzip, br", body) == TEXT
        assert decode(["gzip", "identity", "br"], body) == TEXT
        assert decode("br, gzip", body) == "body_undecodable"

    def test_at_most_three(self) -> None:
        body = TEXT
        for _ in range(CODINGS_MAX):
            body = gzip.compress(body)
        assert decode("gzip,gzip,gzip", body) == TEXT
        assert decode("gzip,gzip,gzip,gzip", gzip.compress(body)) == "unsupported_encoding"

    def test_the_cap_holds_between_them(self) -> None:
        bomb = gzip.compress(gzip.compress(bytes(100 * MIB)))
        assert decode("gzip, gzip", bomb, 50_000) == "body_too_large"


class TestMembers:
    def test_gzip_members_are_one_body(self) -> None:
        assert decode("gzip", gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b")) == b"ab"
        assert decode("gzip", gzip.compress(b"a") + bytes(100)) == b"a"
        assert decode("gzip", gzip.compress(b"a") + gzip.compress(b"b")[:-1]) == "body_undecodable"
        assert decode("gzip", gzip.compress(b"abc") + gzip.compress(b"def"), 5) == "body_too_large"

    def test_zstd_frames_are_one_body(self) -> None:
        one = zstandard.ZstdCompressor().compress(b"abc")
        assert decode("zstd", one + one) == b"abcabc"
        assert decode("zstd", one + one[:-1]) == "body_undecodable"
        assert decode("zstd", one + one, 5) == "body_too_large"

    @pytest.mark.parametrize("name", ["gzip", "zstd"])
    def test_so_many_and_no_more(self, name: str) -> None:
        coding, encode = CODERS[name]
        assert decode(coding, encode(b"a") * MEMBERS_MAX) == b"a" * MEMBERS_MAX
        assert decode(coding, encode(b"a") * (MEMBERS_MAX + 1)) == "body_undecodable"


def test_a_zstd_window_is_bounded() -> None:
    """A frame may ask for gigabytes to be set aside before its first byte."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = encoder.compress(b"x" * 100) + encoder.flush()
    assert zstandard.get_frame_parameters(body).window_size > 8 * MIB
    assert decode("zstd", body) == "body_undecodable"


def test_the_refusal_is_fit_for_the_sender() -> None:
    answer = decode_body(((b"content-encoding", b"gzip"),), b"not gzip", 10)
    assert isinstance(answer, Rejected)
    assert (answer.status, answer.message) == (400, "the body is not in its Content-Encoding")
    assert "gzip" in answer.detail


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json", "application/json"),
        (b"Application/JSON; charset=utf-8", "application/json"),
        (b" text/plain ;x", "text/plain"),
        (b"", ""),
        (b"\xff", "\xff"),
    ],
)
def test_content_type(value: bytes, expected: str) -> None:
    assert content_type(((b"x", b"y"), (b"CONTENT-TYPE", value), (b"Content-Type", b"second"))) == expected


def test_no_content_type() -> None:
    assert content_type(()) == ""
