"""Unisender Go: MD5 of the body, in which the API key stands where the digest is sent, as `auth`.

https://godocs.unisender.ru/web-api-ref#callback-format, and webhooks/unisender_go.py of django-anymail.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import SECRET_SHOWN, Scheme, missing, read_keys, refuse
from relay.schemes.places import Reader, parse_place, utf8
from relay.schemes.shared import VERBATIM, mismatch, need_key, no_key, object_in, strict_json, string

AUTH: Final = parse_place("json:auth")
DIGEST: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnisenderGo(Scheme):
    """A hash with the key in front can be lengthened by anybody; what that appends is no JSON, and is refused."""

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        body, found = reader.body, strict_json(reader.body)
        auth = string(found.get("auth")) if isinstance(found, dict) else None
        reader.note(str(AUTH), auth)
        if not auth:
            return missing(AUTH)
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return no_key()
        if not DIGEST.fullmatch(auth) or body.count(utf8(auth)) != 1:
            return refuse("signature_mismatch", f"{AUTH} is no MD5 in hex, or stands in the body more than once")
        before, after = body.split(utf8(auth))
        reader.note("what is hashed", before + SECRET_SHOWN + after)
        for index, key in keys:
            digest = md5(before + key + after, usedforsecurity=False).hexdigest()
            matches = hmac.compare_digest(digest, auth)
            reader.note(
                f"signature by secrets[{index}]", f"{digest} {'was sent' if matches else 'is not the one sent'}"
            )
            if matches:
                return None
        return mismatch(keys, str(AUTH))

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """The body must have 32 hex digits as its `auth`, which stand nowhere else in it."""
        key, auth = need_key(VERBATIM.read(secret)), utf8(str(object_in(request.body).get("auth")))
        if not DIGEST.fullmatch(auth.decode()) or request.body.count(auth) != 1:
            raise ValueError("the body to sign must hold 32 hex digits as auth, once")
        before, after = request.body.split(auth)
        digest = utf8(md5(before + key + after, usedforsecurity=False).hexdigest())
        return request.but(body=before + digest + after)

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()
