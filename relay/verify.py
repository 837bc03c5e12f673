"""Is this request the provider's own? Pure and total: bytes in, Verified or Rejected out, nothing else ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, Vouches, Wanted
from relay.schemes.places import NO_DOCUMENTS, Reader, Step, first_id

__all__ = ["Scheme", "Step", "Verified", "Vouches", "Wanted", "explain", "sign", "verify", "voucher", "wanted"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A genuine request: the provider's delivery id and event type, where the scheme names them and they are there."""

    key: str | None
    event_type: str | None


def verify(
    scheme: Scheme,
    secrets: Sequence[str],
    request: Request,
    *,
    url: str,
    body: bytes,
    now_s: float,
    documents: Mapping[str, bytes] = NO_DOCUMENTS,
) -> Verified | Rejected:
    """Any of the secrets may vouch. `request.body` is what is signed, as on the wire; `body` the same, decoded.

    `url` is the URL as the provider sees it, with the query; some sign it. Empty secrets and signatures never match.
    `documents` are those of `wanted` that could be had, by their names.
    """
    return judged(scheme, secrets, Reader.of(scheme.headers, request, url, body, scheme.options, documents), now_s)


def judged(scheme: Scheme, secrets: Sequence[str], reader: Reader, now_s: float) -> Verified | Rejected:
    refusal = scheme.judge(reader, secrets, now_s)
    if refusal is not None:
        return refusal
    return Verified(first_id(scheme.delivery_id, reader), first_id(scheme.event_type, reader))


def voucher(scheme: Scheme, secrets: Sequence[str]) -> Vouches:
    """For requests that nothing is wrong with: True only where `verify` gives Verified; False says nothing."""
    return scheme.voucher(secrets)


def wanted(
    scheme: Scheme, request: Request, *, url: str, body: bytes, secrets: Sequence[str] = ()
) -> tuple[Wanted, ...]:
    """What must be fetched before this request can be verified; nothing for most schemes."""
    if not scheme.remote or scheme.pinned(secrets):
        return ()
    return scheme.wanted(Reader.of(scheme.headers, request, url, body, scheme.options))


def explain(
    scheme: Scheme,
    secrets: Sequence[str],
    request: Request,
    *,
    url: str,
    body: bytes,
    now_s: float,
    documents: Mapping[str, bytes] = NO_DOCUMENTS,
) -> tuple[Verified | Rejected, list[Step]]:
    """The same judgement with its steps, for a person who holds the secret: they hold expected signatures."""
    reader = Reader.of(scheme.headers, request, url, body, scheme.options, documents)
    reader.steps = []
    return judged(scheme, secrets, reader, now_s), reader.steps


def sign(scheme: Scheme, secret: str, request: Request, *, url: str, now_s: float, delivery_id: str) -> Request:
    """The request as the provider would send it, with its signature, time and delivery id in the headers.

    Raises ValueError when the secret cannot be a key of this scheme.
    """
    return scheme.sign(secret, request, url, now_s, delivery_id)
