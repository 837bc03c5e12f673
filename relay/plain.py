"""What the fast lane takes: a whole, plain `POST /in/<source>`, read from its bytes.

A strict subset of HTTP/1.1 about which no two parsers disagree: one Content-Length, no Transfer-Encoding, Expect or
Upgrade, of Connection only keep-alive and close, no folded lines, no control characters, no blank at a line's end.
Nothing else is judged here. Where it could be built, `relay.compiled` reads the same in compiled code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Final

from msgspec import Struct

from relay.models import Request

#: A longer request is aiohttp's.
REQUEST_BYTES_MAX: Final = 64 * 1024

FIRST_BYTES: Final = b"POST /in/"
#: Path, the source's name, and query; one that is there but empty is aiohttp's.
FIRST_LINE: Final = re.compile(rb"POST (/in/([a-z0-9][a-z0-9._-]{0,62}))(?:\?([!-~]+))? HTTP/1\.1")
#: So many first lines are remembered, of at most this length: mostly there is one for each source.
FIRST_LINES_MAX: Final = 512
FIRST_LINE_BYTES_MAX: Final = 256
#: A whole line: its name and its value, without the blanks before it. Any other line has no name here, also one with a
#: blank at its end or a tab in its value.
HEADER_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([ -~\x80-\xff]*+)(?<![ \t])\r\n|[^\n]*\n")
NO_NAME: Final = b""
#: Headers that may come once, as they change how a request is read …
FRAMING: Final = (b"content-length", b"host", b"connection")
#: … or mean nothing twice (RFC 9110).
SINGLE: Final = (
    b"content-type",
    b"content-location",
    b"content-range",
    b"etag",
    b"max-forwards",
    b"server",
    b"user-agent",
)
ONCE: Final = frozenset((*FRAMING, *SINGLE))
#: Headers that change how a request is read in ways that the lane does not know.
UNUSUAL: Final = frozenset((NO_NAME, b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"))
LENGTH_DIGITS_MAX: Final = 9
#: What the header Connection may say → whether the request is the last.
IS_LAST: Final = {None: False, b"keep-alive": False, b"Keep-Alive": False, b"close": True, b"Close": True}


class Plain(Struct, frozen=True, gc=False):
    """A whole plain request: `end` is where the next one begins; `last` when the sender wants the connection closed
    after the answer. `named` are the headers by their names in lower case, when none of them comes twice.
    """

    source: str
    request: Request
    end: int
    last: bool = False
    named: dict[bytes, bytes] | None = None


class Unfinished(Enum):
    """More bytes are needed."""

    UNFINISHED = "unfinished"


UNFINISHED: Final = Unfinished.UNFINISHED


def read_plain(data: bytes, headers_max: int, head_bytes_max: int) -> Plain | Unfinished | None:
    """The request at the beginning of `data`; None when it is not plain."""
    line_end = data.find(b"\r\n")
    if line_end < 0:
        begins_so = data.startswith(FIRST_BYTES[: len(data)]) and len(data) < head_bytes_max
        return UNFINISHED if begins_so and b"\n" not in data else None
    line = data[:line_end]
    first = read_first_line(line) if line_end > FIRST_LINE_BYTES_MAX else known_first_line(line)
    head_end = data.find(b"\r\n\r\n", line_end)
    if first is None or head_end > head_bytes_max:
        return None
    if head_end < 0:
        return UNFINISHED if len(data) < head_bytes_max else None
    found = HEADER_LINE.findall(data, line_end + 2, head_end + 2)
    named: dict[bytes, bytes] = {}
    for name, text in found:  # a comprehension costs a call more
        named[name.lower()] = text
    count, length = len(found), named.get(b"content-length", b"")
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
        return None
    if not named.get(b"host") or not UNUSUAL.isdisjoint(named):
        return None
    last = IS_LAST.get(named.get(b"connection"))
    if last is None or count > headers_max or (len(named) != count and not are_once(found)):
        return None
    begin = head_end + 4
    end = begin + int(length)
    if end > REQUEST_BYTES_MAX:
        return None
    if len(data) < end:
        return UNFINISHED
    source, path, query = first
    request = Request("POST", path, query, tuple(found), data[begin:end])
    return Plain(source, request, end, last, named if len(named) == count else None)


def read_first_line(line: bytes) -> tuple[str, str, str] | None:
    """Source, path and query; None for any other line."""
    found = FIRST_LINE.fullmatch(line)
    return (found[2].decode(), found[1].decode(), (found[3] or b"").decode()) if found else None


known_first_line: Final = lru_cache(FIRST_LINES_MAX)(read_first_line)


def are_once(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Does none of the headers that may come once come again?"""
    names = [lower for name, _ in headers if (lower := name.lower()) in ONCE]
    return len(names) == len(set(names))
