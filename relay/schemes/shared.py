"""What the schemes that are code have in common: comparing MACs, strict JSON, the id of a signed sample.

Pure and total, like the schemes themselves.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from relay.errors import Rejected
from relay.models import RawHeaders, Request
from relay.schemes.base import SIGNATURES_MAX, refuse
from relay.schemes.encodings import DECODE, DIGEST_BYTES, ENCODE, Algorithm, Encoding, Key
from relay.schemes.places import OWS, Place, Reader, utf8, with_header

VERBATIM: Final = Key()
#: Numbers and objects in a body that is read strictly: each costs a call before anybody vouches for it.
VALUES_MAX: Final = 50_000
#: The same for values of every kind; those inside texts count too, as nobody knows yet where these end.
COMMAS_MAX: Final = 250_000


class Number(str):
    """A JSON number as it is written: what is signed is its text, and nobody's arithmetic can change that."""


def strict_json(text: bytes) -> Any:
    """The JSON, numbers as `Number`; None when it is none, or when two parsers could read it differently.

    That is: a name twice in one object, NaN and Infinity, another encoding than UTF-8, too deep a nesting. A transform
    must not see another amount than the one that was verified. A body of very many values is not read.
    """
    if text.count(b",") > COMMAS_MAX:
        return None
    places = iter(range(VALUES_MAX))

    def counted(value: Any) -> Any:
        if next(places, None) is None:
            raise ValueError("too many numbers and objects")
        return value

    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=lambda pairs: counted(_without_doubles(pairs)),
            parse_int=lambda text: counted(Number(text)),
            parse_float=lambda text: counted(Number(text)),
            parse_constant=_no_json,
        )
    except (ValueError, RecursionError):
        return None


def string(value: object) -> str | None:
    """A text, and no number."""
    return value if isinstance(value, str) and not isinstance(value, Number) else None


def decoded(texts: Sequence[bytes], encoding: Encoding, algorithm: Algorithm) -> list[bytes]:
    """Those of the texts that are signatures of the algorithm's size."""
    found = (DECODE[encoding](text) for text in texts[:SIGNATURES_MAX])
    return [signature for signature in found if signature is not None and len(signature) == DIGEST_BYTES[algorithm]]


def any_match(
    reader: Reader,
    keys: Sequence[tuple[int, bytes]],
    content: bytes,
    signatures: Sequence[bytes],
    algorithm: Algorithm,
    encoding: Encoding,
) -> bool:
    """Whether one of the keys makes one of the signatures over the content."""
    reader.note("what is signed", content)
    for index, key in keys:
        digest = hmac.digest(key, content, algorithm)
        matches = any(hmac.compare_digest(digest, signature) for signature in signatures)
        if reader.steps is not None:
            verdict = "was sent" if matches else f"is none of the {len(signatures)} sent"
            reader.note(f"signature by secrets[{index}]", f"{ENCODE[encoding](digest).decode()} {verdict}")
        if matches:
            return True
    return False


def no_key() -> Rejected:
    return refuse("key_unavailable", "no configured secret is a key of this scheme")


def mismatch(keys: Sequence[object], where: str) -> Rejected:
    return refuse("signature_mismatch", f"{where} was made with none of {len(keys)} secret(s), or of something else")


def headers_by_name(headers: RawHeaders) -> dict[bytes, list[bytes]]:
    """All headers by their names in lower case, for schemes where the request says which of them are signed."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip(OWS))
    return found


def with_headers(request: Request, headers: Mapping[str, str | bytes]) -> Request:
    """The request with exactly one header of each of these names."""
    raw = request.headers
    for name, value in headers.items():
        raw = with_header(raw, name, utf8(value) if isinstance(value, str) else value)
    return request.but(headers=raw)


def with_id(request: Request, places: Sequence[Place], delivery_id: str) -> Request:
    """The request with its delivery id, where that stands in a header alone."""
    names = [name.decode() for place in places for name in place.headers if place.text.startswith("header:")]
    return with_headers(request, dict.fromkeys(names, delivery_id))


def need_key(key: bytes | None) -> bytes:
    """The key to sign with. Raises ValueError when the secret is none."""
    if not key:
        raise ValueError("is empty, or not in the form of this provider's secrets")
    return key


def object_in(body: bytes) -> dict[str, Any]:
    """The JSON object of a request to sign. Raises ValueError when it is something else."""
    found = json.loads(body)
    if isinstance(found, dict):
        return found
    raise ValueError("the body to sign is no JSON object")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
