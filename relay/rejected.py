"""Rejected requests for a person: looked at, judged again, and accepted when they are genuine after all.

The operator API answers with this, and the command line uses it directly while no relay runs. Judging again means: by
the configuration as it is now, at the time when the request came. Only a genuine one becomes a delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from relay.bodies import decode_body
from relay.diagnosis import diagnose
from relay.errors import Rejected
from relay.handshakes import answer_signed, answer_unsigned
from relay.judge import Asked, Judge, environment_asked
from relay.masking import masked_headers, masked_query, masked_url
from relay.models import Delivery
from relay.records import Json, header_text
from relay.schemes.base import Scheme
from relay.sources import RunningSource
from relay.stores.base import Store
from relay.stores.pen import Pen, RejectedRecord
from relay.telemetry import Telemetry
from relay.verify import Verified

#: The most that one call judges.
IDS_MAX: Final = 100
#: In seconds: no time is stale. The signature still has to be genuine.
ANY_TIME_SECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a rejected request cannot be accepted: a Rejected's code, or one of REFUSALS."""

    code: str
    message: str


#: code → what it means, for refusals that are not about the request's signature.
REFUSALS: Final[dict[str, str]] = {
    "not_found": "there is no such rejected request, or not any more",
    "body_not_kept": "the body was too large to be kept (rejected.bytes_max): let the provider send it again",
    "is_handshake": "a handshake wants an answer and is no delivery: let the provider send it again",
}

Judged: TypeAlias = tuple[Delivery, Verified] | Refused


class RejectedRequests:
    """The operator's view of a pen. `sources` are those of now: the mapping that changes when they are reloaded.

    Raises StoreUnavailable as the pen and the store do.
    """

    def __init__(
        self, pen: Pen, store: Store, judge: Judge, sources: Mapping[str, RunningSource], telemetry: Telemetry
    ) -> None:
        self.pen, self.store, self.judge, self.sources = pen, store, judge, sources
        self.telemetry = telemetry
        self.accepting = asyncio.Lock()

    async def rejected(
        self, *, source: str | None = None, code: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[Json]:
        """Newest first; `before` is the id of the last one of the page before."""
        found = await self.pen.list_rejected(source=source, code=code, before=before, limit=limit)
        return [rejected_json(record, self.scheme_of(record)) for record in found]

    async def one(self, rejected_id: str) -> Json | None:
        """With its request, but without the body, and with secrets hidden."""
        record = await self.pen.get(rejected_id)
        return None if record is None else rejected_json(record, self.scheme_of(record))

    async def body(self, rejected_id: str) -> bytes | None:
        """The body exactly as it was sent; None when there is none, or none was kept."""
        record = await self.pen.get(rejected_id)
        return record.request.body if record and record.request and record.body_kept else None

    async def verify(self, ids: Sequence[str], *, stale: bool = False) -> list[Json]:
        """Would `accept` take them, and why not? Changes nothing."""
        return [await self.verify_one(name, stale=stale) for name in ids]

    async def verify_one(self, rejected_id: str, *, stale: bool) -> Json:
        record = await self.pen.get(rejected_id)
        told: Json = {"id": rejected_id, "source": record.source if record else None}
        judged = await self.judge_again(record, stale=stale)
        if isinstance(judged, Refused):
            return {**told, "genuine": False, "code": judged.code, "message": judged.message}
        _, verified = judged
        return {**told, "genuine": True, "key": verified.key, "event_type": verified.event_type}

    async def accept(self, ids: Sequence[str], *, stale: bool = False) -> Json:
        """Those that are genuine now become deliveries, durably, and leave the pen; for the others, why not."""
        done: Json = {"accepted": [], "refused": []}
        for name in ids:
            async with self.accepting:  # the same one twice at the same time is accepted once
                outcome = await self.accept_one(name, stale=stale)
            done["refused" if "code" in outcome else "accepted"].append(outcome)
        return done

    async def accept_one(self, rejected_id: str, *, stale: bool) -> Json:
        record = await self.pen.get(rejected_id)
        judged = await self.judge_again(record, stale=stale)
        if isinstance(judged, Refused):
            return {"id": rejected_id, "code": judged.code, "message": judged.message}
        delivery, _ = judged
        kept_id, duplicate = delivery.id, True
        if await self.store.get_delivery(delivery.id) is None:  # else we were cut off here before
            accepted = (await self.store.accept([delivery]))[0]
            kept_id, duplicate = accepted.id, accepted.duplicate
        await self.pen.remove([rejected_id])
        self.telemetry.log(
            "rejected.accepted", source=delivery.source, id=rejected_id, delivery=kept_id, duplicate=duplicate
        )
        return {"id": rejected_id, "delivery_id": kept_id, "duplicate": duplicate}

    async def judge_again(self, record: RejectedRecord | None, *, stale: bool) -> Judged:
        """The delivery that this request is by the configuration of now, or why it is none.

        It keeps its id, by which it can be found in the log, and the time when it came: an event that has no time of
        its own gets that one, as after a replay.
        """
        if record is None:
            return Refused("not_found", REFUSALS["not_found"])
        if record.request is None or not record.body_kept:
            return Refused("body_not_kept", REFUSALS["body_not_kept"])
        source = self.sources.get(record.source)
        if source is None or not source.settings.enabled:
            return Refused("unknown_source", f"the source {record.source} is not configured now, or is disabled")
        verified = await self.verify_again(record, source, stale=stale)
        if isinstance(verified, Refused):
            return verified
        environment = environment_asked(record.request, source)
        if isinstance(environment, Rejected):
            return Refused(environment.code, environment.message)
        request = record.request
        delivery = Delivery(record.id, source.name, verified.key, record.received_ms, request, environment)
        return delivery, verified

    async def verify_again(self, record: RejectedRecord, source: RunningSource, *, stale: bool) -> Verified | Refused:
        assert record.request is not None
        request, url, preset = record.request, url_now(record, source, self.judge.settings.public_url), source.preset
        body = decode_body(request.headers, request.body, self.judge.settings.body_bytes_max)
        if isinstance(body, Rejected):
            return Refused(body.code, body.detail or body.message)
        scheme, secrets = timeless(preset.scheme) if stale else preset.scheme, await self.judge.secrets_of(source)
        asked = Asked(source, secrets, request, url, body, record.received_ms)
        now_s = self.judge.now_s(asked.now_ms)
        verified, documents = await self.judge.verify_with_keys(scheme, asked)
        if isinstance(verified, Rejected):
            cause = diagnose(verified, scheme, secrets, request, url=url, body=body, now_s=now_s, documents=documents)
            return Refused(cause.code, cause.detail or cause.message)
        for answer in (answer_unsigned, answer_signed):
            if answer(preset, request, url=url, body=body, secrets=secrets) is not None:
                return Refused("is_handshake", REFUSALS["is_handshake"])
        return verified

    def scheme_of(self, record: RejectedRecord) -> Scheme | None:
        source = self.sources.get(record.source)
        return None if source is None else source.preset.scheme


def timeless(scheme: Scheme) -> Scheme:
    return scheme.with_tolerance(ANY_TIME_SECONDS) or scheme


def url_now(record: RejectedRecord, source: RunningSource, public_url: str | None) -> str:
    """The URL as the provider sees it, by the settings of now: a wrong receiver.public_url is a common cause."""
    if source.settings.url is None and public_url is None:
        return record.url
    assert record.request is not None
    query = f"?{record.request.query}" if "?" in record.url else ""
    return f"{source.settings.url or f'{public_url}{record.request.path}'}{query}"


def rejected_json(record: RejectedRecord, scheme: Scheme | None) -> Json:
    shown: Json = {
        "id": record.id,
        "source": record.source,
        "received_ms": record.received_ms,
        "code": record.code,
        "detail": record.detail,
        "skew_seconds": record.skew_seconds,
        "url": masked_url(record.url, scheme),
        "body_bytes": record.body_bytes,
        "body_kept": record.body_kept,
    }
    request = record.request
    if request is None:
        return shown
    headers = [[header_text(name), header_text(value)] for name, value in masked_headers(request.headers, scheme)]
    asked = {"method": request.method, "path": request.path, "query": masked_query(request.query, scheme)}
    return {**shown, "request": {**asked, "headers": headers}}
