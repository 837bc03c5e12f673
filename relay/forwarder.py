"""Stage 3: pending events → batches per lane → the sink → settled. Meets the other stages only in the store.

A lane is one destination and environment. Every lane that has something to send has its own task, which ends when the
lane is empty or has to wait; so a lane that is slow, hung or down never delays another one.

    claim ─▶ send ─▶ learn ─▶ settle ─▶ wait (as long as the lane's last answer says)
      ▲       │                          │
      └───────┴─────── more is due ──────┘      while all goes well, behind a full batch that is still on its way
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from relay.config import Destination
from relay.errors import StoreUnavailable
from relay.forwarder_reports import ForwarderReports, LaneKey
from relay.inngest import Sink
from relay.models import ClaimedEvent, Lane, Outcome, Retry, Sent, Settlement
from relay.retry import LaneState, all_settled, backoff_ms, settlement
from relay.stores.base import Store
from relay.telemetry import Telemetry

#: Lanes that send at once; further ones wait for a free place.
LANES_MAX: Final = 500
#: A claim outlasts the longest send (taking a refused batch apart, and its last request) by minutes.
LEASE_SECONDS_MIN: Final = 600.0
#: The store is asked for lanes at least this often, and no more often than that.
LOOK_SECONDS_MAX: Final = 1.0
LOOK_SECONDS_MIN: Final = 0.02
#: Between two tries while the store is unusable.
STORE_RETRY_SECONDS: Final = 0.25
#: A lone event that met a stopped destination lets the lane's others try before it.
STOPPED_PASS_MS: Final = 250
#: Of all lanes together so many batches may be on their way beside the first of each.
BATCHES_MORE_MAX: Final = 64
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
        self._store, self._sinks, self._settings = store, sinks, settings
        self._reports, self._clock_ms, self._random = ForwarderReports(telemetry, settings), clock_ms, random
        self._drain_seconds = drain_seconds
        self._tasks: dict[LaneKey, asyncio.Task[None]] = {}
        self._states: dict[LaneKey, LaneState] = {}
        self._latest_ms = clock_ms()
        self._stopping, self._ended, self._stirred = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._running = False
        self._batches_more = 0  # on their way beside the first of their lanes
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
        now_ms = self._now_ms()
        self._forget_states(lanes, now_ms)
        startable = [lane for lane in lanes if self._is_startable(lane)]
        later = [due_ms - now_ms for lane in startable if (due_ms := self._due_ms(lane)) > now_ms]
        self._fill_places([(lane.destination, lane.environment) for lane in startable if self._due_ms(lane) <= now_ms])
        return min(LOOK_SECONDS_MAX, min(later, default=1000) / 1000)

    def _fill_places(self, due: Sequence[LaneKey]) -> None:
        troubled = sum(map(self._is_troubled, self._tasks))
        for key in due:
            is_troubled = self._is_troubled(key)
            if len(self._tasks) < LANES_MAX and not (is_troubled and troubled >= TROUBLED_LANES_MAX):
                self._start_lane(key)
                troubled += is_troubled

    def _is_troubled(self, key: LaneKey) -> bool:
        state = self._states.get(key)
        return state is not None and (state.failures > 0 or state.stopped)

    def _forget_states(self, lanes: Sequence[Lane], now_ms: int) -> None:
        """Lanes that have nothing left (their last events died, say) need no memory and raise no alarm."""
        kept = {(lane.destination, lane.environment) for lane in lanes} | self._tasks.keys()
        for key in [key for key, state in self._states.items() if key not in kept and state.resume_ms <= now_ms]:
            was_stopped = self._is_stopped(key[0])
            del self._states[key]
            self._sound_alarm(key, was_stopped, [])

    def _is_startable(self, lane: Lane) -> bool:
        if lane.destination in self._settings:
            return (lane.destination, lane.environment) not in self._tasks
        self._reports.missing(lane)
        return False

    def _due_ms(self, lane: Lane) -> int:
        state = self._states.get((lane.destination, lane.environment))
        return max(lane.due_ms, state.resume_ms) if state else lane.due_ms

    def _start_lane(self, key: LaneKey) -> None:
        task = asyncio.create_task(self._run_lane(key), name=f"lane {key}")
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
        await self._pause(self._looked_s + LOOK_SECONDS_MIN - time.monotonic())

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
            await self._pause(STORE_RETRY_SECONDS)
        elif error is not None:
            raise error

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

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

    # ── one lane ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run_lane(self, key: LaneKey) -> None:
        """Batch after batch, until the lane is empty or has to wait."""
        state = self._states.setdefault(key, LaneState(self._settings[key[0]].batch_events_max))
        on_their_way: set[asyncio.Task[None]] = set()
        try:
            await self._guarded(key, state, self._send_batches(key, state, on_their_way))
            while on_their_way:
                await asyncio.wait(on_their_way)
        except asyncio.CancelledError:
            for batch in on_their_way:
                batch.cancel()
            if on_their_way:
                await asyncio.wait(on_their_way)
            raise
        if state.is_well(self._settings[key[0]]) and state.resume_ms <= self._now_ms():
            del self._states[key]

    async def _send_batches(self, key: LaneKey, state: LaneState, on_their_way: set[asyncio.Task[None]]) -> None:
        """What is sent is in `on_their_way` until it is settled, also when this ends."""
        while not self._stopping.is_set() and state.resume_ms <= self._now_ms():
            events: list[ClaimedEvent] = []
            beside = bool(on_their_way)
            self._batches_more += beside  # before anything is waited for: other lanes look at it meanwhile
            try:
                events = await self._claim(key, state.limit)
            finally:
                self._batches_more -= beside and not events
            if not events:
                break
            batch = asyncio.create_task(self._guarded(key, state, self._forward_batch(key, state, events)))
            on_their_way.add(batch)
            batch.add_done_callback(partial(self._forget_batch, on_their_way, beside))
            if self._is_full(key, events):
                await self._wait_for_room(key, state, on_their_way)
            else:  # what comes meanwhile goes together
                await asyncio.wait(on_their_way)
            if len(self._tasks) >= LANES_MAX:
                break  # others wait for a place: this lane's turn comes again

    def _forget_batch(self, on_their_way: set[asyncio.Task[None]], beside: bool, batch: asyncio.Task[None]) -> None:
        on_their_way.discard(batch)
        self._batches_more -= beside

    async def _guarded(self, key: LaneKey, state: LaneState, work: Awaitable[None]) -> None:
        """A surprise in one lane must end neither the lane nor the others."""
        try:
            await work
        except StoreUnavailable as error:
            self._reports.lose_store(error)
            state.resume_ms = self._now_ms() + round(STORE_RETRY_SECONDS * 1000)
        except Exception as error:  # noqa: BLE001 - see above
            self._reports.surprised(error, destination=key[0], environment=key[1])
            state.resume_ms = self._now_ms() + 1000

    def _is_full(self, key: LaneKey, events: Sequence[ClaimedEvent]) -> bool:
        """Nearly: by bytes, one event more may have been too much."""
        rules = self._settings[key[0]]
        return len(events) >= rules.batch_events_max or 2 * array_bytes(events) > rules.batch_bytes_max

    async def _wait_for_room(self, key: LaneKey, state: LaneState, on_their_way: set[asyncio.Task[None]]) -> None:
        """Until the lane may send another batch beside those. In trouble it sends one at a time."""
        rules = self._settings[key[0]]
        while on_their_way:
            may_be_more = state.is_well(rules) and self._batches_more < BATCHES_MORE_MAX
            if may_be_more and len(on_their_way) < rules.batches_max:
                break
            await asyncio.wait(on_their_way, return_when=asyncio.FIRST_COMPLETED)

    async def _forward_batch(self, key: LaneKey, state: LaneState, events: list[ClaimedEvent]) -> None:
        """The main path."""
        troubles = state.troubles
        outcomes, unsent = await self._send(key, events)
        if troubles == state.troubles:  # else others that were on their way have told it already
            self._learn(key, state, outcomes, unsent)
        if unsent:
            settlements = self._judge(key, events, outcomes)
            await self._settle(settlements)
            self._reports.settled(key, settlements)
        else:
            await self._settle(all_settled(events, outcomes))
            self._reports.all_sent(key, len(events))

    async def _claim(self, key: LaneKey, limit: int) -> list[ClaimedEvent]:
        """A batch: full by count or by bytes, or else as old as batch_wait_ms."""
        bytes_max, lease_seconds = self._settings[key[0]].batch_bytes_max, self._lease_seconds(key)
        events = await self._store.claim_events(*key, limit, bytes_max, lease_seconds)
        left = bytes_max - array_bytes(events) + len("[]") - len(",")  # as an array of its own, joined by a comma
        wait_ms = self._wait_ms(key, events)
        if not events or len(events) >= limit or left <= 0 or wait_ms <= 0:
            return events
        await self._pause(wait_ms / 1000)
        if self._stopping.is_set():
            await self._store.release_events(events)
            return []
        return events + await self._claim_more(key, limit - len(events), left)

    async def _claim_more(self, key: LaneKey, limit: int, left: int) -> list[ClaimedEvent]:
        """What still fits. A claim has at least one event, however big: one that does not fit is given back."""
        try:
            events = await self._store.claim_events(*key, limit, left, self._lease_seconds(key))
            if array_bytes(events) <= left:
                return events
            await self._store.release_events(events)
        except StoreUnavailable as error:
            self._reports.lose_store(error)
        return []

    def _wait_ms(self, key: LaneKey, events: Sequence[ClaimedEvent]) -> int:
        """How long the oldest event may still wait for company."""
        age_ms = self._now_ms() - min([event.created_ms for event in events], default=0)
        return min(self._settings[key[0]].batch_wait_ms - age_ms, self._settings[key[0]].batch_wait_ms)

    def _lease_seconds(self, key: LaneKey) -> float:
        return LEASE_SECONDS_MIN + 2 * self._settings[key[0]].request_seconds

    async def _send(self, key: LaneKey, events: list[ClaimedEvent]) -> tuple[list[Outcome], list[Outcome]]:
        """What became of each event; and of those that were not taken."""
        destination, environment = key
        started = time.perf_counter()
        try:
            outcomes = await self._sinks[destination].send(events, environment)
        except asyncio.CancelledError:
            await self._store.release_events(events)  # stopped in the middle: whether they arrived nobody knows
            raise
        except Exception as error:  # noqa: BLE001 - the events must be settled whatever the sink met
            # Its own text is not told: what an HTTP library raises may hold the URL, and so the key.
            self._reports.surprised(RuntimeError(f"a sink raised {type(error).__name__}"))
            outcomes = [Retry("destination_failing", f"the relay met a surprise: {type(error).__name__}")] * len(events)
        unsent: list[Outcome] = [outcome for outcome in outcomes if not isinstance(outcome, Sent)]
        size_bytes = sum([len(event.json) for event in events])
        self._reports.batch(key, len(events), size_bytes, unsent, time.perf_counter() - started)
        return outcomes, unsent

    def _learn(self, key: LaneKey, state: LaneState, outcomes: list[Outcome], unsent: list[Outcome]) -> None:
        """What the answer means for the lane."""
        was_stopped = self._is_stopped(key[0])
        state.learn(outcomes if unsent else (), self._settings[key[0]], self._now_ms(), self._random())
        self._sound_alarm(key, was_stopped, outcomes)

    def _judge(self, key: LaneKey, events: list[ClaimedEvent], outcomes: list[Outcome]) -> list[Settlement]:
        """What the answer means for each event."""
        now_ms, rules = self._now_ms(), self._settings[key[0]]
        return [
            settlement(event, outcome, rules, now_ms, self._delay_ms(event, outcome, len(events), rules))
            for event, outcome in zip(events, outcomes, strict=True)
        ]

    def _delay_ms(self, event: ClaimedEvent, outcome: Outcome, batch_events: int, rules: Destination) -> int:
        """Each event by its own count, so that one that breaks every batch comes back seldom. While the destination
        is stopped the lane itself waits, and its events need not."""
        if not isinstance(outcome, Retry):
            return 0
        if outcome.stop:
            return round(rules.stopped_retry_seconds * 1000) + STOPPED_PASS_MS if batch_events == 1 else 0
        return backoff_ms(event.attempt + 1, rules, self._random(), outcome.after_seconds)

    async def _settle(self, settlements: list[Settlement]) -> None:
        """Until it is stored: what is known of the batch is not to be learned again by sending it twice."""
        while True:
            try:
                await self._store.settle(settlements)
                break
            except StoreUnavailable as error:
                self._reports.lose_store(error)
                await asyncio.sleep(STORE_RETRY_SECONDS)
        self._reports.regain_store()

    def _is_stopped(self, destination: str) -> bool:
        return any(state.stopped for (name, _), state in self._states.items() if name == destination)

    def _sound_alarm(self, key: LaneKey, was_stopped: bool, outcomes: list[Outcome]) -> None:
        """Once when the first lane of a destination is stopped, once when the last one is taken again."""
        is_stopped = self._is_stopped(key[0])
        if is_stopped != was_stopped:
            self._reports.alarm(key, outcomes, is_stopped=is_stopped)

    def _now_ms(self) -> int:
        """The time. When the clock was set back, no lane waits longer for that."""
        now_ms = self._clock_ms()
        back_ms, self._latest_ms = self._latest_ms - now_ms, now_ms
        if back_ms > 0:
            for state in self._states.values():
                state.resume_ms -= back_ms
        return now_ms


def array_bytes(events: Sequence[ClaimedEvent]) -> int:
    """The size of the events as one JSON array."""
    return len("[]") + sum([len(event.json) for event in events]) + len(",") * (len(events) - 1)
