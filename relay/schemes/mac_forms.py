"""Which MACs are sent in a common way, so that compiled code can say yes to them (`relay.compiled.macs`).

Common is: a signature in one header, by itself, behind a prefix or as one item of a list (`t=1,v1=abc`); over a content
of literals, the body, headers and such items; with a time in seconds or milliseconds, or none. Whatever is sent
otherwise, or by a scheme of another form, is judged in Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from relay import compiled
from relay.schemes.base import SIGNATURE_BYTES_MAX, Part, Timestamp, Vouches
from relay.schemes.encodings import DECODE
from relay.schemes.places import Place
from relay.schemes.signed import Signed

#: A pattern that finds the items of a list: what parts them, how they begin, of which characters the rest is.
ITEM: Final = re.compile(
    rb"\(\?:\^\|(?P<between>[,;]|\\s)\)(?P<padded>\\s\*)?(?P<prefix>\w+[=,])\((?P<characters>\[[^]]+\]|\\d)\+\)"
)
BETWEEN: Final = {b",": b",", b";": b";", rb"\s": b" "}
#: Of a header that is an item by itself, each of the 256 bytes may be a part.
ANY: Final = bytes([1] * 256)
BODY: Final = "body"


class NotCommonError(Exception):
    """The scheme is of another form."""


def quicker(scheme: Signed, macs: Sequence[Callable[[bytes], bytes]], vouches: Vouches) -> Vouches:
    """The same as `vouches`, in compiled code where there is such code and the scheme is common."""
    if not compiled.IS_COMPILED:
        return vouches
    try:
        signature = item_of(scheme.signature)
        values = {name: value_of(scheme, part) for name, part in scheme.values}
        content = [content_of(part, values) for part in scheme.content.parts]
        time = time_of(scheme.timestamp, values) if scheme.timestamp else ()
    except NotCommonError:
        return vouches
    return compiled.MacVoucher(vouches, list(macs), signature, DECODE[scheme.encoding], content, *time)


def time_of(
    time: Timestamp, values: Mapping[str, compiled.Item]
) -> tuple[compiled.Item, bool, float | None, float | None]:
    """Where it stands, whether it is in milliseconds, and how far it may be in the past and in the future."""
    if time.unit == "iso":
        raise NotCommonError
    return item_at(time.place, values), time.unit == "ms", time.tolerance_seconds, time.future_seconds


def content_of(part: bytes | Place, values: Mapping[str, compiled.Item]) -> bytes | compiled.Item | None:
    """A part of what is signed; None is the body."""
    if isinstance(part, bytes):
        return part
    return None if part.text == BODY else item_at(part, values)


def item_at(place: Place, values: Mapping[str, compiled.Item]) -> compiled.Item:
    """What a place holds: a header, or a named value."""
    return values[place.value] if place.value in values else item_of(Part(place))


def value_of(scheme: Signed, part: Part | re.Pattern[bytes]) -> compiled.Item:
    return item_of(part if isinstance(part, Part) else Part(scheme.signature.place, pattern=part))


def item_of(part: Part) -> compiled.Item:
    """Raises NotCommonError when it is not in a header, or found by another pattern."""
    header = part.place.header
    if not header:
        raise NotCommonError
    if part.pattern is None:
        return compiled.Item(header, b"", part.prefix, ANY, SIGNATURE_BYTES_MAX)
    found = ITEM.fullmatch(part.pattern.pattern)
    if found is None:
        raise NotCommonError
    between, characters = BETWEEN[found["between"]], re.compile(found["characters"])
    allowed = bytes([characters.fullmatch(bytes([code])) is not None for code in range(256)])
    if allowed[between[0]]:  # an item would end later than the list's
        raise NotCommonError
    padded = found["padded"] is not None
    return compiled.Item(header, between, found["prefix"], allowed, SIGNATURE_BYTES_MAX, padded)
