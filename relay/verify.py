"""Is this request the provider's own? Pure and total: bytes in, Verified or Rejected out, nothing else ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.kinds import Scheme
from relay.schemes.places import Reader, first_id

__all__ = ["Scheme", "Verified", "sign", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A genuine request: the provider's delivery id and event type, where the scheme names them and they are there."""

    key: str | None
    event_type: str | None


def verify(
    scheme: Scheme, secrets: Sequence[str], request: Request, *, url: str, body: bytes, now_s: float
) -> Verified | Rejected:
    """Any of the secrets may vouch. `request.body` is what is signed, as on the wire; `body` the same, decoded.

    `url` is the URL as the provider sees it, with the query; some sign it. Empty secrets and signatures never match.
    """
    reader = Reader(scheme.headers, request, url, body)
    refusal = scheme.judge(reader, secrets, now_s)
    if refusal is not None:
        return refusal
    return Verified(first_id(scheme.delivery_id, reader), first_id(scheme.event_type, reader))


def sign(scheme: Scheme, secret: str, request: Request, *, url: str, now_s: float, delivery_id: str) -> Request:
    """The request as the provider would send it, with its signature, time and delivery id in the headers.

    Raises ValueError when the secret cannot be a key of this scheme.
    """
    return scheme.sign(secret, request, url, now_s, delivery_id)
