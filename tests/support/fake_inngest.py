"""A fake Inngest on a real socket: it answers as the record in tests/data/event-api-observed.txt, keeps what it
accepted, and can be told to fail.

In a test: `async with FakeInngest() as fake: ... fake.url, fake.accepted, fake.set_mode(Mode(status=503))`.
As a process: `python -m tests.support.fake_inngest --port 0` prints its port, then GET /_/accepted?from=N,
POST /_/mode with a Mode's fields (and `key`, `environment` to say whom it is for), DELETE /_/mode.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from tests.support.event_api_rules import internal_ids, parse_body

ACCEPTED_MAX: Final = 500_000
REQUESTS_MAX: Final = 50_000
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
#: Stands for "whatever key" and "whatever environment".
ANY: Final = "*"


@dataclass(frozen=True)
class Accepted:
    """One event that was stored: as it was read, with the id that the answer gave for it."""

    key: str
    environment: str | None
    event: dict[str, Any]
    inngest_id: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """One request, whatever became of it. `at` is the event loop's time in seconds."""

    key: str
    environment: str | None
    events: int
    status: int
    at: float


@dataclass(frozen=True)
class Mode:
    """A way to fail. The default fails in none. Fields may be combined where that makes sense."""

    status: int | None = None  # answer this and store nothing
    error: str = "told to fail"
    retry_after: str | None = None
    body_bytes_max: int | None = None  # 413 above it
    refuse: tuple[str, ...] = ()  # ids of events that are bad: a partial 400, wherever they come
    crash_on: tuple[str, ...] = ()  # ids of events that make the whole request a 500
    cancel: int = 0  # on a 400 the last so many accepted events are not stored and have no id
    cancel_holes: bool = False  # on a 400 every second accepted event is cancelled: ids with "" between
    hang: float = 0.0  # seconds before anything is answered or stored
    slow: float = 0.0  # seconds before the answer, after storing
    reset: str = ""  # "before" or "after" storing, the connection is cut
    text: str | None = None  # 200 with this as the body
    fewer_ids: int = 0  # 200 with so many ids less
    redirect: str | None = None  # 307 to there
    times: int | None = None  # so many requests, then none of this


@dataclass
class FakeInngest:
    """The server. `keys` None takes any key, () is a server without keys."""

    keys: tuple[str, ...] | None = None
    port: int = 0
    accepted: deque[Accepted] = field(default_factory=lambda: deque(maxlen=ACCEPTED_MAX))
    requests: deque[Seen] = field(default_factory=lambda: deque(maxlen=REQUESTS_MAX))
    modes: dict[tuple[str, str | None], Mode] = field(default_factory=dict)
    begun: int = 0  # requests that have arrived whole, answered or not
    at_once: int = 0  # those of them that are not answered yet
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/_/accepted", self._list_accepted)
        app.router.add_route("*", "/_/mode", self._change_mode)
        app.router.add_route("*", "/{path:.*}", self._route)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set_mode(self, mode: Mode, *, key: str = ANY, environment: str | None = ANY) -> None:
        """Fail like that for one key and environment, or for any; Mode() is well again."""
        self.modes[key, environment] = mode

    def ids(self, environment: str | None = ANY) -> list[str]:
        """The events' own ids, as often as each was accepted, in order."""
        return [got.event["id"] for got in self.accepted if environment in (ANY, got.environment)]

    async def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Until `condition()` holds; it is looked at after every request. TimeoutError when it never does."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    # ── routes ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/e" and request.method == "POST":
            return web.Response(body=b"<html>stub</html>", headers={"Content-Type": "text/html; charset=utf-8"})
        if not path.startswith("/e/"):
            return web.Response(status=404)
        if request.method == "OPTIONS":
            return web.Response(status=200)
        if request.method != "POST":
            return web.Response(status=405)
        if path == "/e/" or path.endswith("/"):
            return web.Response(status=303, headers={"Location": path.rstrip("/") or "/"})
        return await self._receive(request, path.removeprefix("/e/"))

    async def _receive(self, request: web.Request, key: str) -> web.StreamResponse:
        environment = request.headers.get("x-inngest-env")
        body, mode = await request.read(), self._mode_for(key, environment)
        self.begun += 1
        self.at_once += 1
        try:
            count, answer = await self._answer(request, key, environment, body, mode)
        finally:
            self.at_once -= 1
        seen = Seen(key, environment, count, answer.status, asyncio.get_running_loop().time())
        async with self.changed:
            self.requests.append(seen)
            self.changed.notify_all()
        return answer

    async def _answer(
        self, request: web.Request, key: str, environment: str | None, body: bytes, mode: Mode
    ) -> tuple[int, web.Response]:
        parsed = parse_body(body, request.content_type if "Content-Type" in request.headers else "")
        count = len(parsed.events) + (parsed.error is not None)
        await asyncio.sleep(mode.hang)
        if mode.reset == "before":
            return count, cut(request)
        if refused := self._refuse_key(key) or refuse_all(mode, body, parsed.events):
            return count, refused
        events, error = apply_refusals(parsed.events, parsed.error, mode)
        ids = internal_ids(len(events), request.headers.get("x-inngest-event-id-seed"))
        kept = [not is_cancelled(position, len(events), error, mode) for position in range(len(events))]
        headers = dict(request.headers)
        self.accepted.extend(
            Accepted(key, environment, event, inngest_id, headers)
            for event, inngest_id, keep in zip(events, ids, kept, strict=True)
            if keep
        )
        await asyncio.sleep(mode.slow)
        if mode.reset == "after":
            return count, cut(request)
        return count, answer_ids([i if keep else "" for i, keep in zip(ids, kept, strict=True)], error, mode)

    def _mode_for(self, key: str, environment: str | None) -> Mode:
        """The most exact mode; one with `times` is used up."""
        for whom in ((key, environment), (ANY, environment), (key, ANY), (ANY, ANY)):
            mode = self.modes.get(whom)
            if mode is None or mode.times == 0:
                continue
            if mode.times is not None:
                self.modes[whom] = replace(mode, times=mode.times - 1)
            return mode
        return Mode()

    def _refuse_key(self, key: str) -> web.Response | None:
        if self.keys is None or key in self.keys:
            return None
        if not self.keys:
            return problem(503, "Event keys are required to process events securely")
        return problem(401, "Event key not found")

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _list_accepted(self, request: web.Request) -> web.Response:
        start = int(request.query.get("from", "0"))
        accepted = [asdict(got) for got in list(self.accepted)[start:]]
        return web.json_response({"total": len(self.accepted), "requests": len(self.requests), "accepted": accepted})

    async def _change_mode(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.modes.clear()
            return web.json_response({})
        fields = await request.json()
        key, environment = fields.pop("key", ANY), fields.pop("environment", ANY)
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        self.set_mode(Mode(**fields), key=key, environment=environment)
        return web.json_response({})


def cut(request: web.Request) -> web.Response:
    """Reset the connection; the answer reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def refuse_all(mode: Mode, body: bytes, events: list[dict[str, Any]]) -> web.Response | None:
    """The failures that store nothing."""
    if mode.body_bytes_max is not None and len(body) > mode.body_bytes_max:
        return problem(413, "Event payload too large")
    if any(event.get("id") in mode.crash_on for event in events):
        return problem(500, "an event made the server fail")
    if mode.redirect is not None:
        return web.Response(status=307, headers={"Location": mode.redirect})
    if mode.status is None:
        return None
    answer = problem(mode.status, mode.error)
    if mode.retry_after is not None:
        answer.headers["Retry-After"] = mode.retry_after
    return answer


def apply_refusals(
    events: list[dict[str, Any]], error: str | None, mode: Mode
) -> tuple[list[dict[str, Any]], str | None]:
    """The events before the first one that the mode calls bad."""
    for position, event in enumerate(events):
        if event.get("id") in mode.refuse:
            return events[:position], f"refused: {event['id']}"
    return events, error


def is_cancelled(position: int, count: int, error: str | None, mode: Mode) -> bool:
    """Whether the fake drops an event it has read, as the real one may do behind a bad one."""
    if error is None:
        return False
    return position >= count - mode.cancel or (mode.cancel_holes and position % 2 == 0)


def answer_ids(ids: list[str], error: str | None, mode: Mode) -> web.Response:
    while error is not None and ids and not ids[-1]:
        ids.pop()
    ids = ids[: len(ids) - mode.fewer_ids] or [""]
    answer: dict[str, Any] = {"ids": ids, "status": 200}
    if error is not None:
        answer = {"ids": ids, "status": 400, "error": error}
    text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False) + "\n" if mode.text is None else mode.text
    return web.Response(status=answer["status"], text=text)  # text/plain; charset=utf-8, as the real one


def problem(status: int, error: str) -> web.Response:
    text = json.dumps({"status": status, "message": "", "error": error}, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type="application/json")


async def main() -> None:
    parser = argparse.ArgumentParser(description="A fake Inngest Event API.")
    parser.add_argument("--port", type=int, default=0)
    async with FakeInngest(port=parser.parse_args().port) as fake:
        print(fake.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
