"""The sink: one batch of events over HTTP → one Outcome per event, as Inngest's Event API answers it.

POST {url}/e/{key} with a JSON array. 200 holds one internal id per event, by position. A 400 is about one event: those
before it are published already and have their ids, those behind it were never read, and the last few before it may
have been cancelled (accepted by nobody, no id). So after a 400 the first event without an id is sent alone, which
settles it, and then the rest as a batch again, until every event is settled.
"""

from __future__ import annotations

import io
import json
import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from relay import __version__
from relay.config import Destination
from relay.models import ClaimedEvent, Dead, Outcome, Retry, Sent

#: An answer to 5,000 events has about 150 KB; what is longer is not Inngest's.
ANSWER_BYTES_MAX: Final = 1024 * 1024
#: A batch of so many bytes is written in one piece.
WHOLE_BYTES_MAX: Final = 1024 * 1024
MESSAGE_CHARACTERS_MAX: Final = 500
RETRY_AFTER_SECONDS_MAX: Final = 3600.0
CONNECT_SECONDS_MAX: Final = 10.0
#: No new request of a splitting batch is begun after this; forwarder's lease is longer.
SPLITTING_SECONDS_MAX: Final = 240.0
#: Inngest answers 400 with this too, when it could not publish an event that it had read: not the event's fault.
PUBLISHING_BROKE: Final = "error publishing event"
#: Keys this short ("dev") are no secrets, and blotting them out would garble messages.
KEY_CHARACTERS_MIN: Final = 4


class Sink(Protocol):
    """Where batches go."""

    async def send(self, events: Sequence[ClaimedEvent], environment: str | None) -> list[Outcome]:
        """One Outcome per event, in order. Foreign errors are outcomes; nothing is raised but surprises."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `data` is the body's JSON, None when it is not JSON or over ANSWER_BYTES_MAX."""

    status: int
    data: Any = None
    retry_after: str | None = None
    location: str | None = None


#: What one answer says of each event of its request; None: unknown, send again in smaller parts.
Reading: TypeAlias = list[Outcome | None]


class InngestSink:
    """One Inngest: base URL and key. The key is in the URL, so no URL and no foreign error text ever leaves here."""

    def __init__(
        self,
        settings: Destination,
        *,
        session: aiohttp.ClientSession | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._key = settings.event_key or ""
        self._url = URL(f"{settings.url}/e/{quote(self._key, safe='')}", encoded=True)
        self._session = session
        self._clock_s = clock_s
        seconds = settings.request_seconds
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS_MAX))

    async def send(self, events: Sequence[ClaimedEvent], environment: str | None) -> list[Outcome]:
        if not events:
            return []
        started = time.monotonic()
        answer = await self._post(events, environment)
        if isinstance(answer, Answer) and (ids := taken_ids(answer, len(events))) is not None:
            return [Sent(inngest_id) for inngest_id in ids]
        return await self._send_apart(events, environment, answer, started)

    async def _send_apart(
        self, events: Sequence[ClaimedEvent], environment: str | None, answer: Answer | Retry, started: float
    ) -> list[Outcome]:
        """The rest of it, where the first answer does not say that all were taken."""
        reading: Reading = [None] * len(events)
        group, groups = list(range(len(events))), list[list[int]]()  # positions to be sent, the next group last
        while True:
            for position, outcome in zip(group, self._read(answer, len(group)), strict=True):
                reading[position] = outcome
            groups += reversed(split(answer, [position for position in group if reading[position] is None]))
            trouble = trouble_in([reading[position] for position in group]) or too_late(started)
            if trouble is not None or not groups:
                return [settle_unknown(outcome, trouble) for outcome in reading]
            group = groups.pop()
            answer = await self._post([events[position] for position in group], environment)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, events: Sequence[ClaimedEvent], environment: str | None) -> Answer | Retry:
        """One request. The events' JSON texts are joined, not parsed."""
        body = array_of([event.json for event in events])
        data = io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body  # sent in parts: it may be MiBs
        headers = {} if environment is None else {"x-inngest-env": environment}
        try:
            async with self._open_session().post(
                self._url, data=data, headers=headers, allow_redirects=False, timeout=self._timeout
            ) as response:
                found = parse(await read_capped(response.content))
                after, location = response.headers.get("Retry-After"), response.headers.get("Location")
                return Answer(response.status, found, after, location)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Retry("destination_unreachable", self._clean(explain(error, self.settings.request_seconds)))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The forwarder bounds how many lanes send at once; a limit here would let a hung lane hold up others.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={
                    "Content-Type": "application/json",
                    "User-Agent": f"inngest-relay/{__version__}",
                    "Accept-Encoding": "identity",
                },
            )
        return self._session

    def _read(self, answer: Answer | Retry, count: int) -> Reading:
        """The answer's meaning, with the key blotted out of every text."""
        reading = [answer] * count if isinstance(answer, Retry) else read_answer(answer, count, self._clock_s())
        return [outcome if isinstance(outcome, Sent) else self._clean_outcome(outcome) for outcome in reading]

    def _clean_outcome(self, outcome: Outcome | None) -> Outcome | None:
        match outcome:
            case Retry(code, message, after_seconds, stop):
                return Retry(code, self._clean(message), after_seconds, stop)
            case Dead(code, message):
                return Dead(code, self._clean(message))
        return outcome

    def _clean(self, text: str) -> str:
        """`text` without the key, and only then cut: a cut key would not be found."""
        if len(self._key) >= KEY_CHARACTERS_MIN:
            text = text.replace(self._key, "***").replace(quote(self._key, safe=""), "***")
        return text[:MESSAGE_CHARACTERS_MAX]


def array_of(texts: Sequence[bytes]) -> bytes:
    """JSON texts, at least one, as one array; copied once."""
    return b",".join((b"[" + texts[0], *texts[1:-1], texts[-1] + b"]")) if len(texts) > 1 else b"[" + texts[0] + b"]"


def read_answer(answer: Answer, count: int, now_s: float) -> Reading:
    """What an answer to `count` events says of each of them."""
    status = answer.status
    if status in (200, 201):
        return read_success(answer, count)
    if status == 400:
        return read_refusal(answer, count)
    if status == 413:
        return [Dead("event_too_large", describe(answer))] if count == 1 else [None] * count
    return [read_trouble(answer, now_s)] * count


def read_success(answer: Answer, count: int) -> Reading:
    ids = taken_ids(answer, count)
    if ids is None:
        return [unreadable(answer, f"it must be JSON with {count} ids")] * count
    return [Sent(inngest_id) for inngest_id in ids]


def taken_ids(answer: Answer, count: int) -> list[str] | None:
    """The ids of an answer that says that all events were taken; None of any other."""
    if answer.status not in (200, 201) or not isinstance(answer.data, dict):
        return None
    ids = ids_of(answer)
    says_ok = answer.data.get("status", 200) in (200, 201)
    return ids if says_ok and ids is not None and len(ids) == count and all(ids) else None


def read_refusal(answer: Answer, count: int) -> Reading:
    """A 400. Only Inngest's own can end an event, and only one that was sent alone."""
    ids = ids_of(answer) or []
    if not is_refusal(answer.data) or len(ids) > count:
        return [unreadable(answer, "it is not one of Inngest's 400 answers")] * count
    reading: Reading = [Sent(inngest_id) if inngest_id else None for inngest_id in ids]
    reading += [None] * (count - len(ids))
    if reading == [None]:
        return [read_refused_alone(answer)]
    return reading


def read_refused_alone(answer: Answer) -> Outcome:
    message = message_in(answer.data)
    if message.startswith(PUBLISHING_BROKE):
        return Retry("destination_failing", describe(answer))
    return Dead("event_refused", message)


def read_trouble(answer: Answer, now_s: float) -> Retry:
    """Every other status: nothing was taken, and it is not the events' fault."""
    status = answer.status
    if status in (408, 425, 429):
        return Retry("destination_busy", describe(answer), after_seconds(answer.retry_after, now_s))
    if status >= 500:
        return Retry("destination_failing", describe(answer), after_seconds(answer.retry_after, now_s))
    if 300 <= status < 500:
        return Retry("destination_stopped", describe(answer), stop=True)
    return unreadable(answer, "only 200 and 201 are success")


def is_refusal(data: Any) -> bool:
    """Whether this is the 400 of Inngest's own making: every one it gives has its status and an error's text."""
    return (
        isinstance(data, dict)
        and data.get("status") == 400
        and isinstance(data.get("error"), str)
        and ("ids" not in data or is_list_of_texts(data["ids"]))
    )


def ids_of(answer: Answer) -> list[str] | None:
    ids = answer.data.get("ids") if isinstance(answer.data, dict) else None
    return ids if is_list_of_texts(ids) else None


def is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {str}


def split(answer: Answer | Retry, unknown: list[int]) -> list[list[int]]:
    """The next requests for the events that an answer left open. One event alone is always settled, so this ends."""
    if isinstance(answer, Retry) or not unknown:
        return []
    # Without ids (413, or a 400 that has none) the answer does not say where to look: halve.
    middle = 1 if ids_of(answer) is not None and answer.status == 400 else (len(unknown) + 1) // 2
    return [part for part in (unknown[:middle], unknown[middle:]) if part]


def trouble_in(reading: Reading) -> Retry | None:
    return next((outcome for outcome in reading if isinstance(outcome, Retry)), None)


def too_late(started: float) -> Retry | None:
    if time.monotonic() - started < SPLITTING_SECONDS_MAX:
        return None
    return Retry("destination_failing", f"taking a refused batch apart took over {SPLITTING_SECONDS_MAX:g} s")


def settle_unknown(outcome: Outcome | None, trouble: Retry | None) -> Outcome:
    """An event still open has met what ended the sending: else the loop ends with every event read."""
    final = outcome or trouble
    assert final is not None
    return final


def after_seconds(retry_after: str | None, now_s: float) -> float | None:
    """Retry-After in seconds or as a date (RFC 9110 §10.2.3), within 0 and an hour; None when absent or neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after) if retry_after.strip().isdigit() else date_s(retry_after) - now_s
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


def date_s(text: str) -> float:
    return parsedate_to_datetime(text).timestamp()


def unreadable(answer: Answer, why: str) -> Retry:
    return Retry("answer_unreadable", f"{describe(answer)} (unreadable: {why})")


def describe(answer: Answer) -> str:
    """The status and what Inngest says of it; never text that is not JSON, which may echo anything."""
    phrase = HTTPStatus(answer.status).phrase if answer.status in HTTPStatus._value2member_map_ else "unknown status"
    said = message_in(answer.data) or (f"redirect to {answer.location}" if answer.location else phrase)
    return f"{answer.status} {said}"


def message_in(data: Any) -> str:
    """Inngest's text, of both shapes: {"error"} from the Event API, {"error", "message"} from before it."""
    if not isinstance(data, dict):
        return ""
    found = [data[key] for key in ("error", "message") if isinstance(data.get(key), str) and data[key].strip()]
    return found[0] if found else ""


def parse(body: bytes | None) -> Any:
    if body is None:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        pass  # the library's own reader takes a little more: NaN, other encodings, numbers of any length
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


async def read_capped(content: aiohttp.StreamReader) -> bytes | None:
    """The whole body, or None when it is longer than an answer of Inngest's can be."""
    parts, size = [], 0
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            return None
    return b"".join(parts)


def explain(error: Exception, request_seconds: float) -> str:
    """Why there was no answer, without the error's own text: it may hold the URL, and so the key."""
    if isinstance(error, TimeoutError):
        return f"no answer within {request_seconds:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} does not resolve"
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return "the TLS connection was refused: wrong certificate or protocol"
    if isinstance(error, OSError) and error.errno:
        return f"no connection: {os.strerror(error.errno)}"
    return f"the connection broke: {type(error).__name__}"
