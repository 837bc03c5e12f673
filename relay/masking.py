"""A request as it may be shown: what its sender proves itself with is hidden. Pure.

A signature may be seen: it proves one request. A token, a password or a cookie is the secret itself. Hidden are the
places of the source's scheme that hold one, and everything whose name says that it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_plus

from relay.models import RawHeaders
from relay.schemes.base import Scheme
from relay.schemes.kinds import BySecret
from relay.schemes.token import Token

#: Header names that say that their value is a secret.
HEADER_NAMES: Final = re.compile(
    rb"(?i)authorization|cookie|token|secret|password|passwd|api-?key|access-?key|auth-?key|credential|client-?state"
)
#: What may stand before it, and says only what was sent.
AUTHORIZATION_KINDS: Final = re.compile(rb"(?i)(basic|bearer|digest|token) ")
QUERY_NAMES: Final = re.compile(
    r"(?i)token|secret|password|passwd|pwd|api[-_]?key|access[-_]?key|auth|credential|client[-_]?state|^key$|^sig$"
)
#: What stands in a hidden value's place, in a header.
HIDDEN: Final = re.compile(rb"(?i)((basic|bearer|digest|token) )?\(hidden, \d+ bytes\)\Z")


def masked_headers(headers: RawHeaders, scheme: Scheme | None) -> RawHeaders:
    """The headers with secret values replaced by their length."""
    hidden = {name for place in token_places(scheme) if (name := header_of(place))}
    return tuple((name, masked_value(value) if is_secret(name, hidden) else value) for name, value in headers)


def masked_query(query: str, scheme: Scheme | None) -> str:
    """The query with secret values replaced by their length; everything else as it was sent."""
    hidden = {place.partition(":")[2] for place in token_places(scheme) if place.startswith("query:")}
    return "&".join(masked_pair(pair, hidden) for pair in query.split("&"))


def masked_url(url: str, scheme: Scheme | None) -> str:
    base, mark, query = url.partition("?")
    base = re.sub(r"(?<=://)[^/@]*@", "(hidden)@", base)
    return base + mark + masked_query(query, scheme)


def token_places(scheme: Scheme | None) -> Iterable[str]:
    """Where the scheme reads a secret that is sent along."""
    if isinstance(scheme, Token):
        return [str(scheme.token.place.text)]
    if isinstance(scheme, BySecret):
        return [place for _, choice in scheme.choices for place in token_places(choice)]
    return []


def header_of(place: str) -> bytes | None:
    return place.partition(":")[2].lower().encode() if place.startswith("header:") else None


def is_secret(name: bytes, hidden: set[bytes]) -> bool:
    return name.lower() in hidden or HEADER_NAMES.search(name) is not None


def masked_value(value: bytes) -> bytes:
    found = AUTHORIZATION_KINDS.match(value)
    kind = found[0] if found else b""
    return kind + f"(hidden, {len(value) - len(kind)} bytes)".encode()


def masked_pair(pair: str, hidden: set[str]) -> str:
    name, equals, value = pair.partition("=")
    plain = unquote_plus(name)
    if not value or not (plain in hidden or QUERY_NAMES.search(plain)):
        return pair
    return f"{name}{equals}(hidden,{len(value)})"
