"""Stage 2: a received delivery runs through its source's script and becomes events, or is filtered, or dies.

Read `Pipeline.process` first. Claims come turn by turn between sources and each source may hold only so many, so a
script that hangs fills its own share and nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from relay.config import Config
from relay.errors import LeaseLost, SandboxUnavailable, StoreUnavailable, TransformError
from relay.models import ClaimedDelivery, Event
from relay.sandbox import SandboxPool
from relay.sources import RunningSource
from relay.stores.base import Store
from relay.telemetry import Telemetry
from relay.transform import TransformLimits, transform

#: Deliveries of one source in work at once: enough to keep the children busy, few enough to hold in memory.
PER_SOURCE_MAX: Final = 16
#: While a source, or all of them, hold so many bytes of bodies, each source goes on with one delivery at a time.
SOURCE_BYTES_MAX: Final = 4 * 1024 * 1024
WORK_BYTES_MAX: Final = 32 * 1024 * 1024
CLAIM_MAX: Final = 64
LEASE_SECONDS: Final = 120.0
#: The longest sleep between looks at the store: a lease that ran out is found again within it.
IDLE_SECONDS: Final = 1.0
#: A delivery that surprises the relay this often is dead, so that it cannot come round for ever.
SURPRISES_MAX: Final = 5
STORE_RETRY_SECONDS: Final = 0.5

T = TypeVar("T")


class Pipeline:
    """Runs until stop(); every delivery it claims ends in the store or is given back."""

    def __init__(
        self,
        store: Store,
        pool: SandboxPool,
        sources: Mapping[str, RunningSource],
        config: Config,
        telemetry: Telemetry,
    ) -> None:
        self.store, self.pool, self.sources = store, pool, sources
        self.destinations = config.destinations
        self.events_per_delivery_max = config.sandbox.events_per_delivery_max
        self.body_bytes_max = config.receiver.body_bytes_max
        self.telemetry = telemetry
        self.in_work: Counter[str] = Counter()
        self.bytes_in_work: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self.freed = asyncio.Event()
        self.stopping = False

    async def run(self) -> None:
        """Claim, start, wait; until stop()."""
        while not self.stopping:
            try:
                claims = await self.claim()
            except StoreUnavailable as error:
                self.telemetry.log("deliveries.unclaimable", level="error", reason=str(error))
                await asyncio.sleep(STORE_RETRY_SECONDS)
                continue
            for claim in claims:
                self.start(claim)
            if not claims:
                await self.wait()

    async def stop(self, seconds: float) -> None:
        """Take nothing new; give the deliveries in work so long to end, then give the rest back."""
        self.stopping = True
        self.freed.set()
        if self.tasks:
            _, unfinished = await asyncio.wait(self.tasks, timeout=seconds)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def process(self, claim: ClaimedDelivery) -> None:
        """The stage's main path: script, then one transition in the store."""
        began = time.perf_counter()
        result = await self.transform(claim)
        self.telemetry.transform_seconds.labels(claim.delivery.source).observe(time.perf_counter() - began)
        if isinstance(result, TransformError):
            await self.insist(lambda: self.store.fail_delivery(claim, result))
            self.report(claim, "dead", result)
        else:
            finished = await self.insist(lambda: self.store.finish_delivery(claim, result))
            self.telemetry.events_stored.labels(claim.delivery.source).inc(finished.stored)
            self.telemetry.events_duplicate.labels(claim.delivery.source).inc(len(finished.duplicates))
            state = "processed" if result else "filtered"
            self.report(claim, state, events=finished.stored, duplicates=len(finished.duplicates) or None)

    async def transform(self, claim: ClaimedDelivery) -> list[Event] | TransformError:
        source = self.sources[claim.delivery.source]
        destination = self.destinations[source.settings.destination]
        return await transform(
            self.pool,
            source.script,
            claim.delivery,
            destination=source.settings.destination,
            environment=claim.delivery.environment or source.settings.environment or destination.environment,
            limits=TransformLimits(self.events_per_delivery_max, destination.event_bytes_max, self.body_bytes_max),
        )

    async def attend(self, claim: ClaimedDelivery) -> None:
        """Process one claim to its end, whatever happens on the way."""
        try:
            if claim.delivery.source in self.sources:
                await self.process(claim)
            else:  # taken out of the configuration just now: it waits until it is there again
                await self.store.release_delivery(claim)
        except LeaseLost:
            self.telemetry.leases_lost.labels("pipeline").inc()
        except SandboxUnavailable as error:
            self.telemetry.log("delivery.postponed", level="warning", id=claim.delivery.id, reason=str(error))
            await self.store.release_delivery(claim, after_seconds=min(60.0, 0.5 * 2 ** min(claim.attempt, 7)))
        except asyncio.CancelledError:
            await self.store.release_delivery(claim)
            raise
        except Exception as error:  # noqa: BLE001 - one odd delivery must not end the stage
            await self.survive(claim, error)

    async def survive(self, claim: ClaimedDelivery, error: Exception) -> None:
        self.telemetry.surprised("pipeline", error, id=claim.delivery.id)
        if claim.attempt < SURPRISES_MAX:
            await self.store.release_delivery(claim, after_seconds=float(claim.attempt))
        else:
            await self.insist(lambda: self.store.fail_delivery(claim, TransformError("internal", str(error))))

    async def insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do it again until the store can: the script's result is in hand and should not be made twice."""
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                self.telemetry.log("delivery.unsettled", level="error", reason=str(error))
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def claim(self) -> list[ClaimedDelivery]:
        room = self.room()
        self.freed.clear()
        return await self.store.claim_deliveries(CLAIM_MAX, LEASE_SECONDS, room) if room else []

    def room(self) -> dict[str, int]:
        """How many deliveries of each source may be begun now; sources that may begin none are left out."""
        all_heavy = self.bytes_in_work.total() >= WORK_BYTES_MAX
        room = {}
        for source in self.sources:
            is_heavy = all_heavy or self.bytes_in_work[source] >= SOURCE_BYTES_MAX
            room[source] = (1 if is_heavy else PER_SOURCE_MAX) - self.in_work[source]
        return {source: count for source, count in room.items() if count > 0}

    async def wait(self) -> None:
        """Until something may be claimable, or a place has become free, or IDLE_SECONDS."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self.freed.wait())]
        if self.room():
            waits.append(asyncio.ensure_future(self.store.wait_deliveries(IDLE_SECONDS)))
        try:
            await asyncio.wait(waits, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def start(self, claim: ClaimedDelivery) -> None:
        source, size = claim.delivery.source, len(claim.delivery.request.body)
        self.in_work[source] += 1
        self.bytes_in_work[source] += size
        task = asyncio.create_task(self.attend(claim))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self.ended(source, size, done))

    def ended(self, source: str, size: int, task: asyncio.Task[None]) -> None:
        self.in_work[source] -= 1
        self.bytes_in_work[source] -= size
        self.tasks.discard(task)
        self.freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.surprised("pipeline", error)  # the lease runs out and the delivery is claimed again

    def report(
        self,
        claim: ClaimedDelivery,
        state: str,
        error: TransformError | None = None,
        *,
        events: int | None = None,
        duplicates: int | None = None,
    ) -> None:
        delivery = claim.delivery
        self.telemetry.deliveries_settled.labels(delivery.source, state, error.code if error else "").inc()
        self.telemetry.log(
            f"delivery.{'died' if error else state}",
            level="warning" if error else "info",
            id=delivery.id,
            source=delivery.source,
            events=events,
            duplicates=duplicates,
            code=error.code if error else None,
            line=error.line if error else None,  # not the message: a script may put the body into it
        )
