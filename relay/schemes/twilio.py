"""Twilio's signature, which no table describes: the URL and the sorted form fields, or the URL and the body's hash.

https://www.twilio.com/docs/usage/webhooks/webhooks-security, and the request validator of its Python SDK.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from relay.bodies import content_type
from relay.errors import Rejected
from relay.forms import is_json
from relay.models import Request
from relay.schemes.base import Scheme, missing, read_keys, refuse
from relay.schemes.encodings import Algorithm, decode_hex
from relay.schemes.places import Fields, Reader, fields, only, parse_place, utf8, without_query
from relay.schemes.shared import VERBATIM, any_match, decoded, need_key, no_key, with_headers, with_id

PLACE: Final = parse_place("header:x-twilio-signature")
#: `key=<id>,algorithm=<name>` on requests signed with a SharedKey; absent on those signed with the account's token.
SETTINGS: Final = b"x-twilio-webhooks-signature-settings"
#: The request names the algorithm, so that only these are listened to.
ALGORITHMS: Final[dict[bytes, Algorithm]] = {b"HMAC_SHA1": "sha1", b"HMAC_SHA256": "sha256"}
AUTHORITY: Final = re.compile(rb"(?i)\A(https?)://([^/?#]*)(.*)\Z", re.DOTALL)
PORT: Final = re.compile(rb":[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Twilio(Scheme):
    """The key is the account's auth token, or a SharedKey's secret."""

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        sent = PLACE.read(reader)
        reader.note(str(PLACE), sent)
        if not sent:
            return missing(PLACE)
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return no_key()
        algorithm = algorithm_named(reader)
        reader.note("algorithm", algorithm or "one that is not known")
        if algorithm is None:
            return refuse("signature_mismatch", f"{SETTINGS.decode()} names an algorithm that is not known")
        form = form_of(reader.request)
        if not form and not body_matches_query(reader):
            return refuse(
                "signature_mismatch",
                "nothing signed covers the body: no form (of a usual size), and no bodySHA256 that is its hash",
            )
        signatures, signed = decoded([sent], "base64", algorithm), flat(form)
        contents = (url + signed for url in url_variants(utf8(reader.url)))
        if any(any_match(reader, keys, content, signatures, algorithm, "base64") for content in contents):
            return None
        seen = without_query(reader.url).decode("utf-8", "replace")
        return refuse("signature_mismatch", f"made with none of {len(keys)} secret(s), or for another URL than {seen}")

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """With SHA-1, as Twilio does by default. Another body than a form needs bodySHA256."""
        key, form = need_key(VERBATIM.read(secret)), form_of(request)
        request = with_id(request, self.delivery_id, delivery_id)
        if not form and not body_matches_query(Reader.of(self.headers, request, url, request.body)):
            raise ValueError("a body that is no form needs bodySHA256=<its SHA-256 in hex> in the URL's query")
        digest = hmac.digest(key, utf8(url) + flat(form), "sha1")
        return with_headers(request, {"X-Twilio-Signature": b64encode(digest)})

    def headers_judged(self) -> frozenset[bytes]:
        return PLACE.headers | {SETTINGS}


def algorithm_named(reader: Reader) -> Algorithm | None:
    """SHA-1 when the request names none; None when it names one that is not known."""
    named = [part.partition(b"=") for part in b",".join(reader.header_values(SETTINGS)).split(b",")]
    values = {value.strip().upper() for name, _, value in named if name.strip() == b"algorithm" and value.strip()}
    if len(values) > 1:
        return None
    return ALGORITHMS.get(values.pop()) if values else "sha1"


def form_of(request: Request) -> Fields:
    """The fields; none when a transform would read the body as JSON."""
    is_form = content_type(request.headers) == "application/x-www-form-urlencoded" and not is_json(request.body)
    return fields(request.body) if is_form else []


def flat(form: Fields) -> bytes:
    """Every distinct name and value, sorted, without anything between them."""
    return b"".join(name + value for name, value in sorted(set(form)))


def body_matches_query(reader: Reader) -> bool:
    """Whether the signed URL vouches for a body that is no form: it holds its hash, or there is no body."""
    query = utf8(reader.url).partition(b"?")[2].partition(b"#")[0]
    named = [value for name, value in fields(query) if name == b"bodySHA256"]
    if not named:
        return not reader.request.body
    given = only(named)
    return given is not None and hmac.compare_digest(sha256(reader.request.body).digest(), decode_hex(given) or b"")


def url_variants(url: bytes) -> list[bytes]:
    """The URL as given, without its port, and with its scheme's port: Twilio signs one or another of them."""
    parts = AUTHORITY.match(url)
    if parts is None:
        return [url]
    scheme, authority, rest = parts.groups()
    bare = PORT.sub(b"", authority)
    port = b":443" if scheme.lower() == b"https" else b":80"
    with_port = authority if bare != authority else bare + port
    return list(dict.fromkeys([url, scheme + b"://" + bare + rest, scheme + b"://" + with_port + rest]))
