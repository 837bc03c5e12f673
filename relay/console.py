"""The operator listener: health, metrics, and a small JSON API over what the relay keeps.

Never the public listener's socket. Who may ask is console_guard's business; what is answered is made by Records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from relay.config import environment_is_valid
from relay.console_guard import REQUEST_BYTES_MAX, SAFE_HEADERS, ApiError, Guard, answer_json
from relay.errors import StoreUnavailable, nearest
from relay.models import DeliveryState, EventState
from relay.records import PAIRING_MINUTES_MAX, RECORDS_MAX, Json, Records
from relay.stores.base import Store
from relay.telemetry import Telemetry

PROBE_SECONDS: Final = 1.0
PROBE_TIMEOUT_SECONDS: Final = 2.0
ID_CHARACTERS_MAX: Final = 512

Clock: TypeAlias = Callable[[], int]
Ready: TypeAlias = Callable[[], Awaitable[list[str]]]
Body = TypeVar("Body")
SourceName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]
    again: bool = False
    environment: str | None = None


class PruneBody(msgspec.Struct, forbid_unknown_fields=True):
    before_ms: int


class OpenBody(msgspec.Struct, forbid_unknown_fields=True):
    source: SourceName
    minutes: Annotated[int, msgspec.Meta(ge=1, le=PAIRING_MINUTES_MAX)]


class ForgetBody(msgspec.Struct, forbid_unknown_fields=True):
    source: SourceName
    id: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


def operator_app(
    store: Store, telemetry: Telemetry, *, token: str | None, host: str, clock_ms: Clock, ready: Ready
) -> web.Application:
    """The operator listener's application. `ready` gives the reasons, beyond the store's, why the relay is not."""
    console = Console(store, telemetry, clock_ms, ready)
    guard = Guard(token, host, telemetry)
    app = web.Application(middlewares=[guard.answer_errors, guard.admit], client_max_size=REQUEST_BYTES_MAX)
    app.router.add_get("/healthz", console.healthz)
    app.router.add_get("/readyz", console.readyz)
    app.router.add_get("/metrics", console.metrics)
    app.router.add_get("/api/stats", console.stats)
    app.router.add_get("/api/deliveries", console.deliveries)
    app.router.add_get("/api/deliveries/{id}", console.delivery)
    app.router.add_get("/api/deliveries/{id}/body", console.body)
    app.router.add_get("/api/events", console.events)
    app.router.add_get("/api/events/{ref}", console.event)
    app.router.add_post("/api/replay", console.replay)
    app.router.add_post("/api/prune", console.prune)
    app.router.add_get("/api/secrets", console.secrets)
    app.router.add_post("/api/secrets/open", console.open_pairing)
    app.router.add_post("/api/secrets/forget", console.forget_secrets)
    return app


class Console:
    """The handlers. What they answer is made by Records."""

    def __init__(self, store: Store, telemetry: Telemetry, clock_ms: Clock, ready: Ready) -> None:
        self.store, self.telemetry, self.clock_ms, self.ready = store, telemetry, clock_ms, ready
        self.records = Records(store)
        self.probe = StoreProbe(store, telemetry)

    async def healthz(self, http: web.Request) -> web.Response:
        """The process answers. Says nothing about the store: restarting would not mend it."""
        return answer_json({"status": "alive"})

    async def readyz(self, http: web.Request) -> web.Response:
        problem = await self.probe.problem()
        reasons = await self.ready() + ([problem] if problem else [])
        return answer_json({"status": "not_ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, http: web.Request) -> web.Response:
        """Prometheus text. Served while the store is unusable too: then relay_store_usable is 0."""
        try:
            if await self.probe.problem() is None:
                self.telemetry.observe_store(await self.store.stats(), self.clock_ms())
        except StoreUnavailable:
            self.telemetry.store_usable.set(0)
        text = self.telemetry.exposition()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def stats(self, http: web.Request) -> web.Response:
        parameters(http, ())
        return answer_json(await self.records.stats())

    async def deliveries(self, http: web.Request) -> web.Response:
        asked = parameters(http, ("state", "source", "before", "limit"))
        filters = list_filters(asked, [str(state) for state in DeliveryState])
        page = await self.records.deliveries(**filters)
        return answer_json({"deliveries": page, "next": cursor(page, "id", filters["limit"])})

    async def delivery(self, http: web.Request) -> web.Response:
        parameters(http, ())
        found = await self.records.delivery(http.match_info["id"])
        return answer_json(existing(found, "delivery", http.match_info["id"]))

    async def body(self, http: web.Request) -> web.Response:
        """The bytes a stranger sent: a browser must neither guess their type nor show them as a page of ours."""
        parameters(http, ())
        body = existing(await self.records.body(http.match_info["id"]), "delivery", http.match_info["id"])
        headers = {**SAFE_HEADERS, "Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
        return web.Response(body=body, headers=headers)

    async def events(self, http: web.Request) -> web.Response:
        asked = parameters(http, ("state", "source", "delivery_id", "before", "limit"))
        filters = list_filters(asked, [str(state) for state in EventState])
        page = await self.records.events(**filters)
        return answer_json({"events": page, "next": cursor(page, "ref", filters["limit"])})

    async def event(self, http: web.Request) -> web.Response:
        parameters(http, ())
        found = await self.records.event(http.match_info["ref"])
        return answer_json(existing(found, "event", http.match_info["ref"]))

    async def replay(self, http: web.Request) -> web.Response:
        asked = await body_of(http, ReplayBody)
        check_replay(asked)
        done = await self.records.replay(asked.ids, again=asked.again, environment=asked.environment)
        self.telemetry.log(
            "replay.done",
            replayed=len(done["replayed"]),
            refused=len(done["refused"]),
            again=asked.again,
            environment=asked.environment,
        )
        return answer_json(done)

    async def prune(self, http: web.Request) -> web.Response:
        """One short step, so that pruning never holds up the writer; ask again until `done`."""
        asked = await body_of(http, PruneBody)
        if not 0 <= asked.before_ms <= self.clock_ms():
            raise ApiError("invalid_parameter", "before_ms must be a time in the past, in unix milliseconds")
        pruned = await self.records.prune(asked.before_ms)
        return answer_json({"pruned": pruned, "done": pruned == 0})

    async def secrets(self, http: web.Request) -> web.Response:
        """Which secrets came in handshakes. Their text leaves the store by no way but its file."""
        asked = parameters(http, ("source",))
        return answer_json(await self.records.secrets(now_ms=self.clock_ms(), source=asked.get("source")))

    async def open_pairing(self, http: web.Request) -> web.Response:
        asked = await body_of(http, OpenBody)
        opened = await self.records.open_pairing(asked.source, minutes=asked.minutes, now_ms=self.clock_ms())
        self.telemetry.log("secrets.opened", source=asked.source, minutes=asked.minutes)
        return answer_json(opened)

    async def forget_secrets(self, http: web.Request) -> web.Response:
        asked = await body_of(http, ForgetBody)
        forgotten = await self.records.forget_secrets(asked.source, asked.id)
        self.telemetry.log("secrets.forgotten", source=asked.source, count=forgotten)
        return answer_json({"forgotten": forgotten})


class StoreProbe:
    """Asks the store whether it can be written, at most once in PROBE_SECONDS however many ask us."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self.store, self.telemetry = store, telemetry
        self.lock = asyncio.Lock()
        self.asked_at = float("-inf")
        self.last: str | None = None

    async def problem(self) -> str | None:
        """Why the store cannot be used now; None when it can."""
        async with self.lock:
            now = asyncio.get_running_loop().time()
            if now - self.asked_at >= PROBE_SECONDS:
                self.last = await self.ask()
                self.asked_at = asyncio.get_running_loop().time()
                self.telemetry.store_usable.set(0 if self.last else 1)
            return self.last

    async def ask(self) -> str | None:
        try:
            await asyncio.wait_for(self.store.probe(), PROBE_TIMEOUT_SECONDS)
        except StoreUnavailable as error:
            return f"store_unavailable: {error}"
        except TimeoutError:
            return f"store_unavailable: the store did not answer within {PROBE_TIMEOUT_SECONDS:g} s"
        return None


def parameters(http: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    """The query as a plain table; a parameter that is unknown or given twice is refused."""
    for name in http.query:
        if name not in known:
            raise ApiError("invalid_parameter", f"there is no parameter {name!r} here{nearest(name, list(known))}")
        if len(http.query.getall(name)) > 1:
            raise ApiError("invalid_parameter", f"{name} is given more than once")
    return dict(http.query)


def list_filters(asked: dict[str, str], states: list[str]) -> dict[str, Any]:
    """The query of a list, checked; `limit` is a number from 1 to RECORDS_MAX, 50 when not given."""
    if asked.get("state", states[0]) not in states:
        raise ApiError("invalid_parameter", f"state must be one of {', '.join(states)}")
    limit = asked.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= RECORDS_MAX):
        raise ApiError("invalid_parameter", f"limit must be a number from 1 to {RECORDS_MAX}")
    return {**asked, "limit": int(limit)}


def cursor(page: list[Json], key: str, limit: int) -> str | None:
    """What to pass as `before` for the page after this one; None when this was the last."""
    return page[-1][key] if len(page) == limit else None


def existing(found: Body | None, what: str, name: str) -> Body:
    if found is None:
        raise ApiError("not_found", f"there is no {what} {name}")
    return found


async def body_of(http: web.Request, shape: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await http.read(), type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError("invalid_parameter", f"the body is not as documented: {error}") from error


def check_replay(asked: ReplayBody) -> None:
    if not 1 <= len(asked.ids) <= RECORDS_MAX:
        raise ApiError("invalid_parameter", f"ids must be a list of 1 to {RECORDS_MAX}")
    if any(not name or len(name) > ID_CHARACTERS_MAX for name in asked.ids):
        raise ApiError("invalid_parameter", f"an id has 1 to {ID_CHARACTERS_MAX} characters")
    if asked.environment is not None and not environment_is_valid(asked.environment):
        raise ApiError("invalid_parameter", "environment must be 1 to 128 printable characters")
