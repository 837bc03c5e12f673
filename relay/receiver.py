"""Stage 1: a provider's POST becomes a stored delivery, and only then a 200.

Read `Receiver.take` first, then `Judge.judge`: their lines are the steps. Each gives what the next one needs, or a
Rejected.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from relay.config import Receiver as ReceiverSettings
from relay.errors import Rejected, StoreUnavailable
from relay.fast_lane import FastConnection, Lane, Taken
from relay.ids import new_ids
from relay.judge import Judge
from relay.models import Accepted, Delivery, Request
from relay.plain import Plain
from relay.receiver_http import (
    Answer,
    accepted_bytes,
    outcome_code,
    respond,
    response_bytes,
    target,
    to_request,
    unreadable,
    unstorable,
)
from relay.sources import RunningSource, plain_url, public_url
from relay.stores.base import Store
from relay.telemetry import UNKNOWN_SOURCE, Telemetry

#: Bodies being read at one time, together; a request beyond it is told to come back.
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
#: How long a connection may be idle; also the time that a new one has for its headers.
KEEPALIVE_SECONDS: Final = 60.0
#: How long a refused sender may go on sending before the connection is cut.
LINGER_SECONDS: Final = 5.0


class Receiver:
    """The public listener's application: webhook URLs and nothing else."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, RunningSource],
        judge: Judge,
        settings: ReceiverSettings,
        telemetry: Telemetry,
    ) -> None:
        self.store, self.sources, self.judge = store, sources, judge
        self.settings, self.telemetry = settings, telemetry
        self.requests_held = 0
        self.bodies_bytes_held = 0
        self.draining = False
        self.drained = asyncio.Event()
        self.lane = Lane(self.take_plain, settings.header_bytes_max, settings.headers_max, KEEPALIVE_SECONDS)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.receive_unrouted])
        app.router.add_route("*", "/in/{source}", self.receive, expect_handler=self.expect)
        app.router.add_route("*", "/{rest:.*}", self.receive, expect_handler=self.expect)
        return app

    async def drain(self, seconds: float) -> None:
        """Answer what is held, within so many seconds; what still comes on open connections is their last."""
        self.draining = True
        await self.lane.drain()
        if self.requests_held:
            try:
                async with asyncio.timeout(seconds):
                    await self.drained.wait()
            except TimeoutError:
                self.telemetry.log("requests.cut", level="warning", count=self.requests_held)

    async def take(self, http: web.Request) -> Answer:
        """The stage's main path: find the source, read, judge, store. Only Accepted means that anything was kept."""
        source = self.find_source(http)
        if isinstance(source, Rejected):
            return source
        wire = await self.read_body(http)
        if isinstance(wire, Rejected):
            return wire
        request = to_request(http, wire)
        url = public_url(self.settings.public_url, source, f"{http.scheme}://{http.host}", target(http))
        return await self.keep(source, request, url)

    async def keep(self, source: RunningSource, request: Request, url: str) -> Answer:
        judged = await self.judge.judge(source, request, url)
        return (await self.store.accept([judged]))[0] if isinstance(judged, Delivery) else judged

    async def receive(self, http: web.Request) -> web.Response:
        """One request, answered, counted and logged; this is where outcomes become HTTP."""
        began = time.perf_counter()
        self.requests_held += 1
        try:
            answer = await self.outcome(self.take(http))
        finally:
            self.release(http.get("bytes_held", 0))
        self.report(http.match_info.get("source"), answer, time.perf_counter() - began, http.get("bytes_held", 0))
        response = respond(answer, self.sources.get(http.match_info.get("source", "")))
        if self.draining:
            response.force_close()
        return response

    async def outcome(self, taking: Awaitable[Answer]) -> Answer:
        """Surprises become outcomes: a stranger's request must never end in a traceback."""
        try:
            return await taking
        except StoreUnavailable as error:
            return unstorable(error)
        except HttpProcessingError as error:
            return unreadable(error)
        except (ConnectionResetError, asyncio.CancelledError):
            raise  # the sender went away: nobody is left to answer
        except Exception as error:  # noqa: BLE001 - see above
            self.telemetry.surprised("receiver", error)
            return Rejected("internal", "the relay could not handle this request, send it again")

    def take_plain(self, arrived: Sequence[Taken], began: float) -> None:
        """`receive` for requests of the fast lane, which are whole already. What is usual is judged here and now, and
        nothing waits for the store but one callback for all of it; what is not, or is too much, goes the longer way,
        which says what it makes of it.
        """
        self.requests_held += len(arrived)
        self.bodies_bytes_held += body_bytes(arrived)
        now_ms = self.judge.clock_ms()
        taken: list[Taken] = []
        deliveries: list[Delivery] = []
        room = self.room_for(len(arrived))
        for each in arrived[room:]:
            self.answer_later(each, began)
        for each, delivery_id in zip(arrived[:room], new_ids(len(arrived)), strict=False):
            delivery = self.judge_plain(each[0], delivery_id, now_ms)
            if delivery is None:
                self.answer_later(each, began)
            else:
                taken.append(each)
                deliveries.append(delivery)
        if taken:
            self.store.accept_then(deliveries, partial(self.answer_taken, taken, began))

    def room_for(self, arrived: int) -> int:
        """How many of the last so many requests are within the limits, counted in the order in which they came."""
        room = self.settings.requests_max - (self.requests_held - arrived)
        return max(0, room) if self.has_room_for_bodies() else 0

    def judge_plain(self, plain: Plain, delivery_id: str, now_ms: int) -> Delivery | None:
        """The delivery, when there is nothing to refuse and nothing to wait for."""
        source = self.sources.get(plain.source)
        if source is None or len(plain.request.body) > self.settings.body_bytes_max:
            return None
        try:
            return self.judge.judge_usual(source, plain, delivery_id, now_ms)
        except Exception as error:  # noqa: BLE001 - as in `outcome`
            self.telemetry.surprised("receiver", error)
            return None

    def answer_taken(
        self, taken: Sequence[Taken], began: float, answers: Sequence[Accepted | StoreUnavailable]
    ) -> None:
        """What the store said of each, by source: most of them have the usual answer."""
        self.release(body_bytes(taken), len(taken))
        by_source: defaultdict[str, list[tuple[Taken, Accepted]]] = defaultdict(list)
        for each, answer in zip(taken, answers, strict=True):
            if isinstance(answer, Accepted):
                by_source[each[0].source].append((each, answer))
            else:
                self.answer_alone(each, unstorable(answer), began)
        for source, accepted in by_source.items():
            if self.draining or self.has_own_answer(source):
                for each, answer in accepted:
                    self.answer_alone(each, answer, began)
            else:
                self.answer_usual(source, accepted, began)

    def answer_usual(self, source: str, accepted: Sequence[tuple[Taken, Accepted]], began: float) -> None:
        """Answer, count and log what was accepted by one source."""
        seconds, now_s = time.perf_counter() - began, int(time.time())
        for (plain, connection), answer in accepted:
            try:
                connection.answer(accepted_bytes(answer, now_s, last=plain.last), last=plain.last)
            except Exception as error:  # noqa: BLE001 - as in `outcome`; the others must have their answers
                self.cut(connection, error)
        self.telemetry.took(source, [(answer, len(plain.request.body)) for (plain, _), answer in accepted], seconds)

    def answer_alone(self, taken: Taken, answer: Answer, began: float) -> None:
        """Where the answer is not the usual one, or not the store's yes."""
        try:
            self.answer_fully(taken, answer, began)
        except Exception as error:  # noqa: BLE001 - as above
            self.cut(taken[1], error)

    def cut(self, connection: FastConnection, error: Exception) -> None:
        """Nobody will answer this request any more, whose sender will send it again."""
        self.telemetry.surprised("receiver", error)
        connection.transport.abort()

    def answer_later(self, taken: Taken, began: float) -> None:
        """The longer way of a plain request: it may be refused, or have to wait for more than the store."""
        connection = taken[1]
        connection.task = asyncio.get_running_loop().create_task(self.answer_plain(taken, began))

    async def answer_plain(self, taken: Taken, began: float) -> None:
        plain, connection = taken
        try:
            answer = await self.outcome(self.keep_plain(plain))
        except BaseException:
            connection.transport.abort()  # nobody would ever answer
            raise
        finally:
            self.release(len(plain.request.body))
        self.answer_fully(taken, answer, began)

    def answer_fully(self, taken: Taken, answer: Answer, began: float) -> None:
        plain, connection = taken
        self.report(plain.source, answer, time.perf_counter() - began, len(plain.request.body))
        response = respond(answer, self.sources.get(plain.source))
        last = plain.last or self.draining or response.keep_alive is False
        connection.answer(response_bytes(response, last=last), last=last)

    async def keep_plain(self, plain: Plain) -> Answer:
        """`take` for a request of the fast lane."""
        request = plain.request
        source = self.find(plain.source, "POST", len(request.headers), len(request.body))
        if isinstance(source, Rejected):
            return source
        if not self.has_room_for_bodies():
            return Rejected("overloaded", "too many bytes at once, send it again")
        return await self.keep(source, request, plain_url(self.settings.public_url, source, request))

    @web.middleware
    async def receive_unrouted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """`OPTIONS *` and `CONNECT` fit no route: like any URL that is not ours, but in our form."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return await self.receive(request)

    def refuse(self, error: BaseException | None) -> web.Response:
        """The answer to what never became a request; nobody knows where the next begins, so the connection ends."""
        answer = unreadable(error)
        if answer.code == "internal" and error is not None:
            self.telemetry.surprised("receiver", error)
        self.report(None, answer, 0.0)
        response = respond(answer)
        response.force_close()
        return response

    def release(self, body_bytes: int, requests: int = 1) -> None:
        self.requests_held -= requests
        self.bodies_bytes_held -= body_bytes
        if self.draining and not self.requests_held:
            self.drained.set()

    async def expect(self, http: web.Request) -> web.Response | None:
        """`Expect: 100-continue`: a request that will be refused is refused before its body is sent."""
        source = self.find_source(http)
        if isinstance(source, Rejected):
            name = http.match_info.get("source", "")
            self.report(name, source, 0.0)
            return respond(source, self.sources.get(name))
        if http.headers.get("Expect", "").lower() == "100-continue" and http.transport is not None:
            http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def find_source(self, http: web.Request) -> RunningSource | Rejected:
        """The source that the URL names, if this request may go on at all."""
        return self.find(http.match_info.get("source"), http.method, len(http.raw_headers), http.content_length or 0)

    def find(self, name: str | None, method: str, headers: int, body_bytes: int) -> RunningSource | Rejected:
        settings = self.settings
        source = self.sources.get(name) if name is not None else None
        if source is None:
            return Rejected("unknown_source", "no such source: the URL is /in/<source>, by the name in relay.toml")
        if not source.settings.enabled:
            return Rejected("source_disabled", f"the source {source.name} is disabled")
        if method != "POST" and method not in source.methods:
            return Rejected("method_not_allowed", f"{method} is not a webhook: POST it")
        if headers > settings.headers_max:
            return Rejected("headers_too_large", f"more than {settings.headers_max} headers")
        if self.requests_held > settings.requests_max:
            return Rejected("overloaded", "too many requests at once, send it again")
        if body_bytes > settings.body_bytes_max:
            return self.too_large()
        return source

    async def read_body(self, http: web.Request) -> bytes | Rejected:
        """The body as it is on the wire, read up to the limit and not a chunk further."""
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                return await self.read_chunks(http)
        except TimeoutError:
            return Rejected("body_timed_out", f"the body took longer than {self.settings.body_seconds:g} seconds")

    async def read_chunks(self, http: web.Request) -> bytes | Rejected:
        chunks: list[bytes] = []
        size = 0
        async for chunk in http.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            http["bytes_held"] = size
            self.bodies_bytes_held += len(chunk)
            if size > self.settings.body_bytes_max:
                return self.too_large()
            if not self.has_room_for_bodies():
                return Rejected("overloaded", "too many bytes at once, send it again")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def has_room_for_bodies(self) -> bool:
        return self.bodies_bytes_held <= BODIES_BYTES_MAX

    def has_own_answer(self, name: str) -> bool:
        source = self.sources.get(name)
        return source is not None and source.preset.answer is not None

    def too_large(self) -> Rejected:
        return Rejected("body_too_large", f"the body is over {self.settings.body_bytes_max:,} bytes")

    def report(self, name: str | None, answer: Answer, seconds: float, size: int = 0) -> None:
        """Count and log; the label is a configured name or `_unknown`, whatever the URL was."""
        source = name if name is not None and name in self.sources else UNKNOWN_SOURCE
        if isinstance(answer, Accepted):
            self.telemetry.took(source, [(answer, size)], seconds)
            return
        self.telemetry.requests.count(source, outcome_code(answer), seconds)
        milliseconds = round(seconds * 1000, 1)
        if isinstance(answer, Rejected):
            self.telemetry.log(
                "delivery.rejected",
                level="warning",
                source=source,
                id=answer.kept_as,
                code=answer.code,
                detail=answer.detail or answer.message,
                skew_seconds=answer.skew_seconds,
                bytes=size,
                ms=milliseconds,
            )
        else:
            self.telemetry.log("handshake.answered", source=source, handshake=answer.name, status=answer.status)
            if answer.keeps is not None:
                remedy = f"`relay secrets show {source}` prints it, should the provider's page ask for it"
                self.telemetry.log("secret.kept", source=source, remedy=remedy)


def body_bytes(requests: Sequence[Taken]) -> int:
    return sum([len(plain.request.body) for plain, _ in requests])
