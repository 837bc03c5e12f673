"""Stage 2: received deliveries run through their source's script and become events, or are filtered, or die.

Read `Pipeline.process` first. Deliveries of one source go through it together, a run, and each is settled by itself as
soon as its answer is there. Claims come turn by turn between sources and each source may hold only so many, so a
script that hangs fills its own share and nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

from relay.config import Config
from relay.errors import StoreUnavailable
from relay.models import ClaimedDelivery
from relay.sandbox import Call, SandboxPool
from relay.settling import Answered, Settler
from relay.sources import RunningSource
from relay.stores.base import Store
from relay.telemetry import Telemetry
from relay.transform import INLINE_BYTES_MAX, TransformLimits, call_for, call_of

#: Deliveries of one source in work at once: enough to keep the children busy, few enough to hold in memory. Fewer of
#: a script that is not known to be quick: what it holds up waits for it.
PER_SOURCE_MAX: Final = 1024
PER_SLOW_SOURCE_MAX: Final = 16
#: Of a quick script new ones are claimed when there is room for so many.
ROOM_MIN: Final = 32
#: While a source, or all of them, hold so many bytes of bodies, each source goes on with one delivery at a time.
SOURCE_BYTES_MAX: Final = 4 * 1024 * 1024
WORK_BYTES_MAX: Final = 32 * 1024 * 1024
CLAIM_MAX: Final = 1024
LEASE_SECONDS: Final = 120.0
#: The longest sleep between looks at the store: a lease that ran out is found again within it.
IDLE_SECONDS: Final = 1.0
STORE_RETRY_SECONDS: Final = 0.5

#: The deliveries of a run that are not settled yet, by claim.
Held: TypeAlias = dict[int, ClaimedDelivery]


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
        self.settlers: dict[str, Settler] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.freed = asyncio.Event()
        self.watching: asyncio.Task[None] | None = None
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
            for run in runs_of(claims):
                self.start(run)
            await self.wait()

    async def stop(self, seconds: float) -> None:
        """Take nothing new; give the deliveries in work so long to end, then give the rest back."""
        self.stopping = True
        self.freed.set()
        if self.watching:
            self.watching.cancel()
        if self.tasks:
            _, unfinished = await asyncio.wait(self.tasks, timeout=seconds)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def process(self, source: RunningSource, held: Held, settler: Settler) -> None:
        """The stage's main path: the run's calls, and each answer settled in the store as it comes."""
        began = time.perf_counter()
        asked, calls, refused = await self.read(held)
        asking = self.ask(source, held, settler, asked, calls, began)
        if refused:
            await asyncio.gather(self.settle(held, settler, refused), asking)
        else:
            await asking

    async def read(self, held: Held) -> tuple[list[ClaimedDelivery], list[Call], list[Answered]]:
        """The deliveries that can be read, what the script is called with for each of them; the others, with why."""
        asked: list[ClaimedDelivery] = []
        calls: list[Call] = []
        refused: list[Answered] = []
        bytes_read = 0
        for claim in list(held.values()):
            body_bytes = len(claim.delivery.request.body)
            try:
                if body_bytes <= INLINE_BYTES_MAX:
                    call = call_for(claim.delivery, self.body_bytes_max)
                else:
                    call = await call_of(claim.delivery, self.body_bytes_max)
            except Exception as error:  # noqa: BLE001 - one odd delivery must not end the others
                refused.append((claim, error))
                continue
            if isinstance(call, Call):
                asked.append(claim)
                calls.append(call)
            else:
                refused.append((claim, call))
            bytes_read += body_bytes
            if bytes_read > INLINE_BYTES_MAX:
                bytes_read = 0
                await asyncio.sleep(0)  # the event loop has other work too
        return asked, calls, refused

    async def ask(
        self,
        source: RunningSource,
        held: Held,
        settler: Settler,
        asked: Sequence[ClaimedDelivery],
        calls: Sequence[Call],
        began: float,
    ) -> None:
        async with aclosing(self.pool.answers(source.script, calls)) as answers:
            async for news in answers:
                settler.observe(len(news), time.perf_counter() - began)
                await self.settle(held, settler, [(asked[place], answer) for place, answer in news])

    async def settle(self, held: Held, settler: Settler, answered: Sequence[Answered]) -> None:
        await settler.settle(answered)
        self.let_go(settler.source.name, [claim for claim, _ in answered if held.pop(claim.claim, None) is not None])

    async def attend(self, name: str, held: Held) -> None:
        """Process the claims of one source to their ends, whatever happens on the way."""
        source = self.sources.get(name)
        try:
            if source is None:  # taken out of the configuration just now: they wait until it is there again
                await self.release(held.values())
                return
            settler = self.settler(source)
            try:
                await self.process(source, held, settler)
            except Exception as error:  # noqa: BLE001 - an odd one must not end the stage
                await asyncio.gather(*(settler.end(claim, error) for claim in held.values()))
        except asyncio.CancelledError:
            await self.release(held.values())
            raise
        finally:
            self.let_go(name, held.values())

    def settler(self, source: RunningSource) -> Settler:
        """The source's, another one when the source was loaded anew."""
        settler = self.settlers.get(source.name)
        if settler is None or settler.source is not source:
            settler = self.settlers[source.name] = self.new_settler(source)
        return settler

    def new_settler(self, source: RunningSource) -> Settler:
        destination = self.destinations[source.settings.destination]
        limits = TransformLimits(self.events_per_delivery_max, destination.event_bytes_max, self.body_bytes_max)
        environment = source.settings.environment or destination.environment
        return Settler(self.store, self.telemetry, source, limits, environment)

    async def release(self, claims: Iterable[ClaimedDelivery]) -> None:
        for claim in list(claims):
            await self.store.release_delivery(claim)

    async def claim(self) -> list[ClaimedDelivery]:
        room = self.room()
        self.freed.clear()
        return await self.store.claim_deliveries(CLAIM_MAX, LEASE_SECONDS, room) if room else []

    def room(self) -> dict[str, int]:
        """How many deliveries of each source may be begun now; sources that may begin none are left out."""
        all_heavy = self.bytes_in_work.total() >= WORK_BYTES_MAX
        room = {}
        for name, source in self.sources.items():
            most = self.in_work_max(source, all_heavy=all_heavy)
            count = most - self.in_work[name]
            if count >= (ROOM_MIN if most == PER_SOURCE_MAX else 1):
                room[name] = count
        return room

    def in_work_max(self, source: RunningSource, *, all_heavy: bool) -> int:
        if all_heavy or self.bytes_in_work[source.name] >= SOURCE_BYTES_MAX:
            return 1
        return PER_SOURCE_MAX if self.pool.is_quick(source.script) else PER_SLOW_SOURCE_MAX

    async def wait(self) -> None:
        """Until something may be claimable, or a place has become free, or IDLE_SECONDS."""
        if self.freed.is_set():
            return
        if (self.watching is None or self.watching.done()) and self.room():
            self.watching = asyncio.create_task(self.watch())
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.freed.set)
        try:
            await self.freed.wait()
        finally:
            timer.cancel()

    async def watch(self) -> None:
        """Ends a wait when something may be claimable; goes on over several of them."""
        try:
            await self.store.wait_deliveries(IDLE_SECONDS)
        except StoreUnavailable:
            pass  # the next claim says so
        finally:
            self.freed.set()

    def start(self, run: Sequence[ClaimedDelivery]) -> None:
        name = run[0].delivery.source
        self.in_work[name] += len(run)
        self.bytes_in_work[name] += bytes_of(run)
        task = asyncio.create_task(self.attend(name, {claim.claim: claim for claim in run}))
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def let_go(self, name: str, claims: Collection[ClaimedDelivery]) -> None:
        """These are no longer in work."""
        if claims:
            self.in_work[name] -= len(claims)
            self.bytes_in_work[name] -= bytes_of(claims)
            self.freed.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.surprised("pipeline", error)  # the leases run out and the deliveries are claimed again


def runs_of(claims: Iterable[ClaimedDelivery]) -> list[list[ClaimedDelivery]]:
    """The claims by source. A large body is read beside the event loop, and the others do not wait for it."""
    runs: dict[str | int, list[ClaimedDelivery]] = {}
    for claim in claims:
        delivery = claim.delivery
        key = claim.claim if len(delivery.request.body) > INLINE_BYTES_MAX else delivery.source
        if (run := runs.get(key)) is None:
            run = runs[key] = []
        run.append(claim)
    return list(runs.values())


def bytes_of(claims: Iterable[ClaimedDelivery]) -> int:
    return sum([len(claim.delivery.request.body) for claim in claims])
