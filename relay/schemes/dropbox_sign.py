"""Dropbox Sign (HelloSign): JSON in the field `json` of a form, and in it a hash of the event's time and type.

https://developers.hellosign.com/docs/events/walkthrough/, and event_callback_helper.py of the Python SDK. Nothing
else of the event is signed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, Timestamp, missing, read_keys, refuse
from relay.schemes.places import Place, Reader, parse_place, utf8
from relay.schemes.shared import VERBATIM, any_match, decoded, mismatch, need_key, no_key, strict_json

FIELD: Final = parse_place("form:json")
#: What stands in the JSON of that field: no place that a preset can name reads JSON inside a form.
EVENT_TYPE: Final = Place("event.event_type in form:json", lambda reader: reader.values.get("event_type"))
EVENT_TIME: Final = Place("event.event_time in form:json", lambda reader: reader.values.get("event_time"))
#: A digit at the type's beginning could have been the time's last one.
TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
TIME: Final = re.compile(r"[0-9]{1,16}")
ANY_TIME: Final = Timestamp(EVENT_TIME, "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropboxSign(Scheme):
    """No time is judged unless a tolerance is set: the event's own time is signed, and retries go on for days.

    Events of one second and type share their hash, so that it is no delivery id: the whole field is.
    """

    time: Timestamp = ANY_TIME

    def __post_init__(self) -> None:
        if not self.event_type:
            object.__setattr__(self, "event_type", (EVENT_TYPE,))
        Scheme.__post_init__(self)  # super() does not know a class with slots

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        text = FIELD.read(reader)
        if not text:
            return missing(FIELD)
        found = strict_json(text)
        event = found.get("event") if isinstance(found, dict) else None
        signed = signed_in(event if isinstance(event, dict) else {})
        if signed is None:
            return refuse("signature_missing", "the form's json has no event with event_time, event_type, event_hash")
        keys = read_keys(reader, secrets, VERBATIM)
        if not keys:
            return no_key()
        time, kind, sent = (utf8(value) for value in signed)
        reader.note("event_hash", sent)
        if not any_match(reader, keys, time + kind, decoded([sent], "hex_lower", "sha256"), "sha256", "hex"):
            return mismatch(keys, "event_hash")
        reader.values.update(event_time=time, event_type=kind)
        return self.time.judge(reader, now_s)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """The body must hold its event_hash once: 64 hex digits, which look the same in either kind of form."""
        key = need_key(VERBATIM.read(secret))
        found = strict_json(FIELD.read(Reader.of(frozenset(), request, url, request.body)) or b"")
        event = found.get("event") if isinstance(found, dict) else None
        signed = signed_in(event) if isinstance(event, dict) else None
        if signed is None or request.body.count(utf8(signed[2])) != 1:
            raise ValueError("the form to sign must hold json with event.event_time, event_type and event_hash")
        digest = hmac.digest(key, utf8(signed[0] + signed[1]), "sha256").hex()
        return request.but(body=request.body.replace(utf8(signed[2]), utf8(digest)))

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()

    def with_tolerance(self, seconds: float) -> Scheme | None:
        return replace(self, time=replace(self.time, tolerance_seconds=seconds, future_seconds=seconds))


def signed_in(event: dict[str, Any]) -> tuple[str, str, str] | None:
    """The event's time, type and hash; None unless all are there."""
    time, kind, sent = event.get("event_time"), event.get("event_type"), event.get("event_hash")
    if not isinstance(time, str) or not isinstance(kind, str) or not isinstance(sent, str):
        return None
    return (time, kind, sent) if TIME.fullmatch(time) and TYPE.fullmatch(kind) and sent else None
