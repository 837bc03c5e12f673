"""Stage 3: pending events → batches per lane → the sink → settled. Meets the other stages only in the store.

A lane is one destination and environment. Every lane that has something to send has its own task (LaneForwarder), which
ends when the lane is empty or has to wait; so a lane that is slow, hung or down never delays another one. Which lanes
run is decided here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from relay.config import Destination
from relay.errors import StoreUnavailable
from relay.forwarder_lane import STORE_RETRY_SECONDS, LaneForwarder, Lanes
from relay.forwarder_reports import ForwarderReports, LaneKey
from relay.inngest import Sink
from relay.models import Lane
from relay.stores.base import Store
from relay.telemetry import Telemetry

#: Lanes that send at once; further ones wait for a free place.
LANES_MAX: Final = 500
#: The store is asked for lanes at least this often, and no more often than that.
LOOK_SECONDS_MAX: Final = 1.0
LOOK_SECONDS_MIN: Final = 0.02
#: Of the lanes that send at once those whose last answer was trouble: many that hang leave room for the others.
TROUBLED_LANES_MAX: Final = LANES_MAX // 2


class Forwarder:
    """Stage 3. `sinks` and `settings` are by destination; whoever made the sinks closes them."""

    def __init__(
        self,
        store: Store,
        sinks: Mapping[str, Sink],
        settings: Mapping[str, Destination],
        telemetry: Telemetry,
        clock_ms: Callable[[], int],
        *,
        random: Callable[[], float] = random.random,
        drain_seconds: float = 5.0,
    ) -> None:
        self._store, self._settings = store, settings
        self._reports = ForwarderReports(telemetry, settings)
        self._lanes = Lanes(store, sinks, settings, self._reports, clock_ms, random, self._are_crowded)
        self._drain_seconds = drain_seconds
        self._tasks: dict[LaneKey, asyncio.Task[None]] = {}
        self._stopping, self._ended, self._stirred = self._lanes.stopping, asyncio.Event(), asyncio.Event()
        self._running = False
        self._looked_s = 0.0  # for lanes that are due, the last time

    async def run(self) -> None:
        """Forward until stopped or cancelled; then the batches in flight are settled, the rest is given back.

        After a surprise, which it raises, it can be run again.
        """
        self._running = True
        self._ended.clear()
        await asyncio.sleep(0)  # whoever runs it again after a stop must not hold up the loop
        try:
            while not self._stopping.is_set():
                self._stirred.clear()
                await self._wait(await self._start_lanes())
        except asyncio.CancelledError:
            self._stopping.set()
            raise
        finally:
            await self._drain()
            self._running = False
            self._ended.set()

    async def stop(self) -> None:
        """No new batch; returns when every lane has ended, within `drain_seconds` and a little."""
        self._stopping.set()
        self._stirred.set()
        if self._running:
            await self._ended.wait()

    # ── which lanes run ──────────────────────────────────────────────────────────────────────────────────────────

    async def _start_lanes(self) -> float:
        """A task for every lane that is due. Seconds until the next one will be."""
        self._looked_s = time.monotonic()
        try:
            lanes = await self._store.lanes()
        except StoreUnavailable as error:
            self._reports.lose_store(error)
            return STORE_RETRY_SECONDS
        self._reports.regain_store()
        now_ms = self._lanes.now_ms()
        self._forget_states(lanes, now_ms)
        startable = [lane for lane in lanes if self._is_startable(lane)]
        later = [due_ms - now_ms for lane in startable if (due_ms := self._due_ms(lane)) > now_ms]
        self._fill_places([(lane.destination, lane.environment) for lane in startable if self._due_ms(lane) <= now_ms])
        return min(LOOK_SECONDS_MAX, min(later, default=1000) / 1000)

    def _fill_places(self, due: Sequence[LaneKey]) -> None:
        troubled = sum(map(self._is_troubled, self._tasks))
        for key in due:
            is_troubled = self._is_troubled(key)
            if not self._are_crowded() and not (is_troubled and troubled >= TROUBLED_LANES_MAX):
                self._start_lane(key)
                troubled += is_troubled

    def _are_crowded(self) -> bool:
        """No further lane can begin before one ends."""
        return len(self._tasks) >= LANES_MAX

    def _is_troubled(self, key: LaneKey) -> bool:
        state = self._lanes.states.get(key)
        return state is not None and (state.failures > 0 or state.stopped)

    def _forget_states(self, lanes: Sequence[Lane], now_ms: int) -> None:
        """Lanes that have nothing left (their last events died, say) need no memory and raise no alarm."""
        states = self._lanes.states
        kept = {(lane.destination, lane.environment) for lane in lanes} | self._tasks.keys()
        for key in [key for key, state in states.items() if key not in kept and state.resume_ms <= now_ms]:
            was_stopped = self._lanes.is_stopped(key[0])
            del states[key]
            self._lanes.sound_alarm(key, was_stopped, [])

    def _is_startable(self, lane: Lane) -> bool:
        if lane.destination in self._settings:
            return (lane.destination, lane.environment) not in self._tasks
        self._reports.missing(lane)
        return False

    def _due_ms(self, lane: Lane) -> int:
        state = self._lanes.states.get((lane.destination, lane.environment))
        return max(lane.due_ms, state.resume_ms) if state else lane.due_ms

    def _start_lane(self, key: LaneKey) -> None:
        task = asyncio.create_task(LaneForwarder(self._lanes, key).run(), name=f"lane {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._forget_task(key))

    def _forget_task(self, key: LaneKey) -> None:
        del self._tasks[key]
        self._stirred.set()

    async def _wait(self, seconds: float) -> None:
        """Until an event may be claimable, a lane has ended, or so many seconds have passed; not through a stop."""
        watch = asyncio.create_task(self._watch(seconds))
        try:
            await self._stirred.wait()
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            error = None if watch.cancelled() else watch.exception()
        await self._bear(error)
        await self._lanes.pause(self._looked_s + LOOK_SECONDS_MIN - time.monotonic())

    async def _watch(self, seconds: float) -> None:
        """Ends a wait when an event may be claimable, or so many seconds have passed."""
        try:
            await self._store.wait_events(seconds)
        finally:
            self._stirred.set()

    async def _bear(self, error: BaseException | None) -> None:
        """What waiting for events ended with: nothing, or a store that is unusable now; all else is a surprise."""
        if isinstance(error, StoreUnavailable):
            self._reports.lose_store(error)
            await self._lanes.pause(STORE_RETRY_SECONDS)
        elif error is not None:
            raise error

    async def _drain(self) -> None:
        """Let the lanes end; those that take too long, or all when this is cancelled too, give their events back."""
        tasks = list(self._tasks.values())
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._drain_seconds)
        finally:
            late = [task for task in tasks if not task.done()]
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
