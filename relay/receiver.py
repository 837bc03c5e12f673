"""Stage 1: a provider's POST becomes a stored delivery, and only then a 200.

Read `Receiver.take` and `judge` first: their lines are the steps. Each gives what the next one needs, or a Rejected.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler
from ulid import ULID

from relay.bodies import decode_body
from relay.config import Receiver as ReceiverSettings
from relay.config import environment_is_valid
from relay.connection import TooManyConnections
from relay.errors import Rejected, StoreUnavailable
from relay.models import Accepted, Delivery, Request
from relay.presets import HandshakeAnswer, answer_handshake
from relay.sources import RunningSource
from relay.stores.base import Store
from relay.telemetry import UNKNOWN_SOURCE, Telemetry
from relay.verify import Verified, verify

ENVIRONMENT_NAME: Final = "x-inngest-env"
#: Bodies being read at one time, together; a request beyond it is told to come back.
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
#: How long a refused sender may go on sending before the connection is cut.
LINGER_SECONDS: Final = 5.0

Answer: TypeAlias = Accepted | HandshakeAnswer | Rejected


class Receiver:
    """The public listener's application: webhook URLs and nothing else."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, RunningSource],
        settings: ReceiverSettings,
        telemetry: Telemetry,
        clock_ms: Callable[[], int],
    ) -> None:
        self.store, self.sources, self.settings = store, sources, settings
        self.telemetry, self.clock_ms = telemetry, clock_ms
        self.requests_held = 0
        self.bodies_bytes_held = 0
        self.draining = False
        self.drained = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.receive_unrouted])
        app.router.add_route("*", "/in/{source}", self.receive, expect_handler=self.expect)
        app.router.add_route("*", "/{rest:.*}", self.receive, expect_handler=self.expect)
        return app

    async def drain(self, seconds: float) -> None:
        """Answer what is held, within so many seconds; what still comes on open connections is their last."""
        self.draining = True
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
        judged = self.judge(source, http, wire)
        return (await self.store.accept([judged]))[0] if isinstance(judged, Delivery) else judged

    def judge(self, source: RunningSource, http: web.Request, wire: bytes) -> Delivery | HandshakeAnswer | Rejected:
        """Decode, verify, look for a handshake, find the environment. The decoded body lives no longer than this."""
        request = to_request(http, wire)
        body = decode_body(request.headers, wire, self.settings.body_bytes_max)
        if isinstance(body, Rejected):
            return body
        now_ms = self.clock_ms()
        verified = self.verify(source, request, http, body, now_ms)
        if isinstance(verified, Rejected):
            return verified
        handshake = answer_handshake(source.preset, request, body)
        if handshake is not None:
            return handshake
        environment = environment_asked(request, source)
        if isinstance(environment, Rejected):
            return environment
        return Delivery(str(ULID()), source.name, verified.key, now_ms, request, environment)

    async def receive(self, http: web.Request) -> web.Response:
        """One request, answered, counted and logged; this is where outcomes and surprises become HTTP."""
        began = time.perf_counter()
        self.requests_held += 1
        try:
            answer = await self.take(http)
        except StoreUnavailable as error:
            answer = Rejected("store_unavailable", "the relay cannot store this now, send it again", str(error))
        except HttpProcessingError as error:
            answer = unreadable(error)
        except (ConnectionResetError, asyncio.CancelledError):
            raise  # the sender went away: nobody is left to answer
        except Exception as error:  # noqa: BLE001 - a stranger's request must never end in a traceback
            self.telemetry.surprised("receiver", error)
            answer = Rejected("internal", "the relay could not handle this request, send it again")
        finally:
            self.release(http)
        self.report(http.match_info.get("source"), answer, time.perf_counter() - began, http.get("bytes_held", 0))
        response = respond(answer)
        if self.draining:
            response.force_close()
        return response

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

    def release(self, http: web.Request) -> None:
        self.requests_held -= 1
        self.bodies_bytes_held -= http.get("bytes_held", 0)
        if self.draining and not self.requests_held:
            self.drained.set()

    async def expect(self, http: web.Request) -> web.Response | None:
        """`Expect: 100-continue`: a request that will be refused is refused before its body is sent."""
        source = self.find_source(http)
        if isinstance(source, Rejected):
            self.report(http.match_info.get("source"), source, 0.0)
            return respond(source)
        if http.headers.get("Expect", "").lower() == "100-continue" and http.transport is not None:
            http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def find_source(self, http: web.Request) -> RunningSource | Rejected:
        """The source that the URL names, if this request may go on at all."""
        name = http.match_info.get("source")
        source = self.sources.get(name) if name is not None else None
        if source is None:
            return Rejected("unknown_source", "no such source: the URL is /in/<source>, by the name in relay.toml")
        if not source.settings.enabled:
            return Rejected("source_disabled", f"the source {source.name} is disabled")
        if http.method != "POST":
            return Rejected("method_not_allowed", f"{http.method} is not a webhook: POST it")
        if len(http.raw_headers) > self.settings.headers_max:
            return Rejected("headers_too_large", f"more than {self.settings.headers_max} headers")
        if self.requests_held > self.settings.requests_max:
            return Rejected("overloaded", "too many requests at once, send it again")
        if (http.content_length or 0) > self.settings.body_bytes_max:
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
            if self.bodies_bytes_held > BODIES_BYTES_MAX:
                return Rejected("overloaded", "too many bytes at once, send it again")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def too_large(self) -> Rejected:
        return Rejected("body_too_large", f"the body is over {self.settings.body_bytes_max:,} bytes")

    def verify(
        self, source: RunningSource, request: Request, http: web.Request, body: bytes, now_ms: int
    ) -> Verified | Rejected:
        url = public_url(self.settings.public_url, http)
        return verify(source.preset.scheme, source.settings.secrets, request, url=url, body=body, now_s=now_ms / 1000)

    def report(self, name: str | None, answer: Answer, seconds: float, size: int = 0) -> None:
        """Count and log; the label is a configured name or `_unknown`, whatever the URL was."""
        source = name if name in self.sources else UNKNOWN_SOURCE
        code = outcome_code(answer)
        self.telemetry.requests.labels(source, code).inc()
        self.telemetry.request_seconds.labels(source).observe(seconds)
        milliseconds = round(seconds * 1000, 1)
        if isinstance(answer, Accepted):
            self.telemetry.body_bytes.labels(source).inc(size)
            line = "delivery.duplicated" if answer.duplicate else "delivery.accepted"
            self.telemetry.log(line, source=source, id=answer.id, bytes=size, ms=milliseconds)
        elif isinstance(answer, Rejected):
            self.telemetry.log(
                "delivery.rejected",
                level="warning",
                source=source,
                code=answer.code,
                detail=answer.detail or answer.message,
                bytes=size,
                ms=milliseconds,
            )
        else:
            self.telemetry.log("handshake.answered", source=source, status=answer.status)


def to_request(http: web.Request, body: bytes) -> Request:
    path, _, query = target(http).partition("?")
    return Request(http.method, path, query, tuple(http.raw_headers), body)


def public_url(base: str | None, http: web.Request) -> str:
    """The URL as the provider sees it, for schemes that sign it: receiver.public_url, else what the request says."""
    return f"{base or f'{http.scheme}://{http.host}'}{target(http)}"


def target(http: web.Request) -> str:
    """Path and query as they were sent. A request that names the whole URL, as to a proxy, means the same by it."""
    sent = http.raw_path
    return sent if sent.startswith("/") else re.sub(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?]*", "", sent)


def unreadable(error: BaseException | None) -> Rejected:
    """What is wrong with bytes that the parser refused. Its text may quote them, except in a first line of several."""
    if isinstance(error, TooManyConnections):
        return Rejected("overloaded", "too many connections at once, send it again", str(error))
    if isinstance(error, LineTooLong) or "Too many headers" in str(error):
        return Rejected("headers_too_large", "there are too many headers, or one of them or the URL is too long")
    if isinstance(error, HttpProcessingError):
        line, several, _ = error.message.partition("\n")
        detail = line.rstrip(":") if several else type(error).__name__
        return Rejected("request_malformed", "this is not a well-formed HTTP/1.1 request", detail)
    return Rejected("internal", "the relay could not handle this request, send it again")


def environment_asked(request: Request, source: RunningSource) -> str | Rejected | None:
    """The branch environment that the request asks for: the header, else the query parameter; None for neither."""
    asked = request.header(ENVIRONMENT_NAME) or query_value(request.query, ENVIRONMENT_NAME)
    if not asked:
        return None
    if not environment_is_valid(asked):
        return Rejected("environment_invalid", "x-inngest-env must be 1 to 128 printable ASCII characters")
    if not any(fnmatch.fnmatchcase(asked, pattern) for pattern in source.settings.environments_allowed):
        return Rejected("environment_not_allowed", f"the source {source.name} takes no deliveries for this environment")
    return asked


def query_value(query: str, name: str) -> str | None:
    """The first value of a query parameter whose name is `name` in any case."""
    if not query:
        return None
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError:  # more fields than any provider sends: there is nothing to route by
        return None
    return next((value for key, value in pairs if key.lower() == name), None)


def outcome_code(answer: Answer) -> str:
    if isinstance(answer, Rejected):
        return answer.code
    if isinstance(answer, Accepted):
        return "duplicate" if answer.duplicate else "accepted"
    return "handshake"


def respond(answer: Answer) -> web.Response:
    """The HTTP form of an outcome; these bodies are part of the contract."""
    if isinstance(answer, Accepted):
        return web.json_response({"id": answer.id, "status": outcome_code(answer)})
    if isinstance(answer, HandshakeAnswer):
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response = web.json_response({"error": {"code": answer.code, "message": answer.message}}, status=answer.status)
    if answer.status == 405:
        response.headers["Allow"] = "POST"
    if answer.status in (408, 413, 431) or answer.code == "request_malformed":
        response.force_close()  # the rest is not read
    if answer.status == 503:
        response.headers["Retry-After"] = "5"
    return response
