"""Fixed secrets that are sent along: they say nothing about the body."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Part, Scheme, Vouches, fill, missing, read_keys, refuse
from relay.schemes.encodings import Key, decode_base64
from relay.schemes.places import Reader, utf8, with_header
from relay.schemes.writing import put, put_each

VERBATIM: Final = Key()


@dataclass(frozen=True, slots=True)
class Each:
    """A list in the body, such as json:value, every item of which carries the secret as `member`."""

    items: str
    member: str

    def __str__(self) -> str:
        return f"{self.member} of each item of {self.items.replace(':', ' ', 1)}"

    def read(self, reader: Reader) -> list[bytes | None]:
        return reader.json_each(self.items.partition(":")[2].split("."), self.member)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Scheme):
    """A fixed secret in a header, the query or the body. `basic`: it is `user:password`, sent as HTTP Basic.

    With `each` all items of a list must carry the same secret, and a list without items vouches for nothing.
    """

    token: Part
    basic: bool
    sign_headers: tuple[tuple[str, str], ...]
    sign_query: tuple[tuple[str, str], ...] = ()
    each: Each | None = None

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        texts = self.each.read(reader) if self.each else [self.token.place.read(reader)]
        where = self.each or self.token.place
        if not any(texts):
            return missing(self.token.place)
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return refuse("key_unavailable", "no secret is configured")
        sent = [self._sent(text) for text in texts]
        if reader.steps is not None:  # what was sent may be the secret itself
            reader.note(str(where), f"{len(sent)} value(s) of {sizes(sent)} bytes")
        for index, key in keys:
            if all(text and hmac.compare_digest(key, text) for text in sent):
                reader.note("verdict", f"secrets[{index}] was sent")
                return None
        return refuse("signature_mismatch", f"{where} is none of {len(keys)} secret(s)")

    def voucher(self, secrets: Sequence[str]) -> Vouches:
        """For a secret in one place, without the steps that only explanations need."""
        keys = [key for secret in secrets if (key := VERBATIM.read(secret))]
        if self.each:
            return Scheme.voucher(self, secrets)
        sent_in, sent_as = self.token.place.read, self._sent

        def vouches(reader: Reader, now_s: float) -> bool:
            sent = sent_as(sent_in(reader))
            return sent is not None and any(hmac.compare_digest(key, sent) for key in keys)

        return vouches

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        if not secret:
            raise ValueError("is empty")
        token = b64encode(utf8(secret)).decode() if self.basic else secret
        headers, query = request.headers, request.query
        for name, template in self.sign_headers:
            headers = with_header(headers, name, utf8(fill(template, {"token": token, "id": delivery_id})))
        for name, template in self.sign_query:
            pair = f"{quote(name, safe='')}={quote(fill(template, {'token': token}), safe='')}"
            query = f"{query}&{pair}" if query else pair
        request = request.but(headers=headers, query=query)
        if self.each:
            return put_each(request, self.each.items, self.each.member, secret)
        in_body = self.token.place.text.startswith(("json:", "form:"))
        return put(request, self.token.place.text, secret) if in_body else request

    def headers_judged(self) -> frozenset[bytes]:
        return self.token.place.headers

    def _sent(self, text: bytes | None) -> bytes | None:
        found = self.token.find(text) if text else None
        return decode_base64(found) if found is not None and self.basic else found


def sizes(texts: Sequence[bytes | None]) -> str:
    return ", ".join(str(len(text or b"")) for text in texts[:5]) + (", …" if len(texts) > 5 else "")
