"""One lane of stage 3: its pending events → batches → the sink → settled.

claim ─▶ send ─▶ learn ─▶ settle ─▶ wait (as long as the lane's last answer says)
  ▲       │                          │
  └───────┴─────── more is due ──────┘      while all goes well, behind a full batch that is still on its way
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from relay.config import Destination
from relay.errors import StoreUnavailable
from relay.forwarder_reports import ForwarderReports, LaneKey
from relay.inngest import Sink
from relay.models import ClaimedEvent, Outcome, Retry, Sent, Settlement
from relay.retry import LaneState, all_settled, backoff_ms, settlement
from relay.stores.base import Store

#: A claim outlasts the longest send (taking a refused batch apart, and its last request) by minutes.
LEASE_SECONDS_MIN: Final = 600.0
#: Between two tries while the store is unusable.
STORE_RETRY_SECONDS: Final = 0.25
#: A lone event that met a stopped destination lets the lane's others try before it.
STOPPED_PASS_MS: Final = 250
#: Of all lanes together so many batches may be on their way beside the first of each.
BATCHES_MORE_MAX: Final = 64
#: So many events are settled in one go. A whole batch would stand before webhooks that wait for the same writer.
SETTLED_MAX: Final = 128


class Lanes:
    """What all lanes share: who sends and who stores, what each lane has learned, the time, and that a stop has come.

    `states` has those that run, and those that have anything to remember. `are_crowded` says whether others wait for a
    lane to end.
    """

    def __init__(
        self,
        store: Store,
        sinks: Mapping[str, Sink],
        settings: Mapping[str, Destination],
        reports: ForwarderReports,
        clock_ms: Callable[[], int],
        random: Callable[[], float],
        are_crowded: Callable[[], bool],
    ) -> None:
        self.store, self.sinks, self.settings, self.reports = store, sinks, settings, reports
        self.random, self.are_crowded = random, are_crowded
        self.states: dict[LaneKey, LaneState] = {}
        self.stopping = asyncio.Event()
        self.batches_more = 0  # on their way beside the first of their lanes
        self._clock_ms, self._latest_ms = clock_ms, clock_ms()

    def now_ms(self) -> int:
        """The time. When the clock was set back, no lane waits longer for that."""
        now_ms = self._clock_ms()
        back_ms, self._latest_ms = self._latest_ms - now_ms, now_ms
        if back_ms > 0:
            for state in self.states.values():
                state.resume_ms -= back_ms
        return now_ms

    async def pause(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            pass

    def is_stopped(self, destination: str) -> bool:
        return any(state.stopped for (name, _), state in self.states.items() if name == destination)

    def sound_alarm(self, key: LaneKey, was_stopped: bool, outcomes: Sequence[Outcome]) -> None:
        """Once when the first lane of a destination is stopped, once when the last one is taken again."""
        is_stopped = self.is_stopped(key[0])
        if is_stopped != was_stopped:
            self.reports.alarm(key, outcomes, is_stopped=is_stopped)


class LaneForwarder:
    """Forwards one lane; made anew whenever it has something to send."""

    def __init__(self, lanes: Lanes, key: LaneKey) -> None:
        self._lanes, self._key = lanes, key
        self._store, self._reports, self._now_ms = lanes.store, lanes.reports, lanes.now_ms
        self._sink, self._rules = lanes.sinks[key[0]], lanes.settings[key[0]]
        self._state = lanes.states.setdefault(key, LaneState(self._rules.batch_events_max))
        self._lease_seconds = LEASE_SECONDS_MIN + 2 * self._rules.request_seconds
        self._on_their_way: set[asyncio.Task[None]] = set()  # batches, until they are settled

    async def run(self) -> None:
        """Batch after batch, until the lane is empty or has to wait."""
        try:
            await self._guarded(self._send_batches())
            while self._on_their_way:
                await asyncio.wait(self._on_their_way)
        except asyncio.CancelledError:
            for batch in self._on_their_way:
                batch.cancel()
            if self._on_their_way:
                await asyncio.wait(self._on_their_way)
            raise
        if self._state.is_well(self._rules) and self._state.resume_ms <= self._now_ms():
            del self._lanes.states[self._key]

    async def _send_batches(self) -> None:
        """What is sent may still be on its way when this ends."""
        while not self._lanes.stopping.is_set() and self._state.resume_ms <= self._now_ms():
            events: list[ClaimedEvent] = []
            beside = bool(self._on_their_way)
            self._lanes.batches_more += beside  # before anything is waited for: other lanes look at it meanwhile
            try:
                events = await self._claim(self._state.limit)
            finally:
                self._lanes.batches_more -= beside and not events
            if not events:
                break
            batch = asyncio.create_task(self._guarded(self._forward_batch(events)))
            self._on_their_way.add(batch)
            batch.add_done_callback(partial(self._forget_batch, beside))
            if self._is_full(events):
                await self._wait_for_room()
            else:  # what comes meanwhile goes together
                await asyncio.wait(self._on_their_way)
            if self._lanes.are_crowded():
                break  # this lane's turn comes again

    def _forget_batch(self, beside: bool, batch: asyncio.Task[None]) -> None:
        self._on_their_way.discard(batch)
        self._lanes.batches_more -= beside

    async def _guarded(self, work: Awaitable[None]) -> None:
        """A surprise in one lane must end neither the lane nor the others."""
        try:
            await work
        except StoreUnavailable as error:
            self._reports.lose_store(error)
            self._state.resume_ms = self._now_ms() + round(STORE_RETRY_SECONDS * 1000)
        except Exception as error:  # noqa: BLE001 - see above
            self._reports.surprised(error, destination=self._key[0], environment=self._key[1])
            self._state.resume_ms = self._now_ms() + 1000

    def _is_full(self, events: Sequence[ClaimedEvent]) -> bool:
        """Nearly: by bytes, one event more may have been too much."""
        return len(events) >= self._rules.batch_events_max or 2 * array_bytes(events) > self._rules.batch_bytes_max

    async def _wait_for_room(self) -> None:
        """Until the lane may send another batch beside those. In trouble it sends one at a time."""
        while self._on_their_way:
            may_be_more = self._state.is_well(self._rules) and self._lanes.batches_more < BATCHES_MORE_MAX
            if may_be_more and len(self._on_their_way) < self._rules.batches_max:
                break
            await asyncio.wait(self._on_their_way, return_when=asyncio.FIRST_COMPLETED)

    async def _forward_batch(self, events: list[ClaimedEvent]) -> None:
        """The main path."""
        troubles = self._state.troubles
        outcomes, unsent = await self._send(events)
        if troubles == self._state.troubles:  # else others that were on their way have told it already
            self._learn(outcomes, unsent)
        if unsent:
            settlements = self._judge(events, outcomes)
            await self._settle(settlements)
            self._reports.settled(self._key, settlements)
        else:
            await self._settle(all_settled(events, outcomes))
            self._reports.all_sent(self._key, len(events))

    async def _claim(self, limit: int) -> list[ClaimedEvent]:
        """A batch: full by count or by bytes, or else as old as batch_wait_ms."""
        bytes_max = self._rules.batch_bytes_max
        events = await self._store.claim_events(*self._key, limit, bytes_max, self._lease_seconds)
        left = bytes_max - array_bytes(events) + len("[]") - len(",")  # as an array of its own, joined by a comma
        wait_ms = self._wait_ms(events)
        if not events or len(events) >= limit or left <= 0 or wait_ms <= 0:
            return events
        await self._lanes.pause(wait_ms / 1000)
        if self._lanes.stopping.is_set():
            await self._store.release_events(events)
            return []
        return events + await self._claim_more(limit - len(events), left)

    async def _claim_more(self, limit: int, left: int) -> list[ClaimedEvent]:
        """What still fits. A claim has at least one event, however big: one that does not fit is given back."""
        try:
            events = await self._store.claim_events(*self._key, limit, left, self._lease_seconds)
            if array_bytes(events) <= left:
                return events
            await self._store.release_events(events)
        except StoreUnavailable as error:
            self._reports.lose_store(error)
        return []

    def _wait_ms(self, events: Sequence[ClaimedEvent]) -> int:
        """How long the oldest event may still wait for company."""
        age_ms = self._now_ms() - min([event.created_ms for event in events], default=0)
        return min(self._rules.batch_wait_ms - age_ms, self._rules.batch_wait_ms)

    async def _send(self, events: list[ClaimedEvent]) -> tuple[list[Outcome], list[Outcome]]:
        """What became of each event; and of those that were not taken."""
        started = time.perf_counter()
        try:
            outcomes = await self._sink.send(events, self._key[1])
        except asyncio.CancelledError:
            await self._store.release_events(events)  # stopped in the middle: whether they arrived nobody knows
            raise
        except Exception as error:  # noqa: BLE001 - the events must be settled whatever the sink met
            # Its own text is not told: what an HTTP library raises may hold the URL, and so the key.
            self._reports.surprised(RuntimeError(f"a sink raised {type(error).__name__}"))
            outcomes = [Retry("destination_failing", f"the relay met a surprise: {type(error).__name__}")] * len(events)
        unsent: list[Outcome] = [outcome for outcome in outcomes if not isinstance(outcome, Sent)]
        size_bytes = sum([len(event.json) for event in events])
        self._reports.batch(self._key, len(events), size_bytes, unsent, time.perf_counter() - started)
        return outcomes, unsent

    def _learn(self, outcomes: list[Outcome], unsent: list[Outcome]) -> None:
        """What the answer means for the lane."""
        was_stopped = self._lanes.is_stopped(self._key[0])
        self._state.learn(outcomes if unsent else (), self._rules, self._now_ms(), self._lanes.random())
        self._lanes.sound_alarm(self._key, was_stopped, outcomes)

    def _judge(self, events: list[ClaimedEvent], outcomes: list[Outcome]) -> list[Settlement]:
        """What the answer means for each event."""
        now_ms = self._now_ms()
        return [
            settlement(event, outcome, self._rules, now_ms, self._delay_ms(event, outcome, len(events)))
            for event, outcome in zip(events, outcomes, strict=True)
        ]

    def _delay_ms(self, event: ClaimedEvent, outcome: Outcome, batch_events: int) -> int:
        """Each event by its own count, so that one that breaks every batch comes back seldom. While the destination
        is stopped the lane itself waits, and its events need not."""
        if not isinstance(outcome, Retry):
            return 0
        if outcome.stop:
            return round(self._rules.stopped_retry_seconds * 1000) + STOPPED_PASS_MS if batch_events == 1 else 0
        return backoff_ms(event.attempt + 1, self._rules, self._lanes.random(), outcome.after_seconds)

    async def _settle(self, settlements: list[Settlement]) -> None:
        """Until it is stored: what is known of the batch is not to be learned again by sending it twice."""
        begin = 0
        while begin < len(settlements):
            try:
                await self._store.settle(settlements[begin : begin + SETTLED_MAX])
            except StoreUnavailable as error:
                self._reports.lose_store(error)
                await asyncio.sleep(STORE_RETRY_SECONDS)
            else:
                self._reports.regain_store()
                begin += SETTLED_MAX


def array_bytes(events: Sequence[ClaimedEvent]) -> int:
    """The size of the events as one JSON array."""
    return len("[]") + sum([len(event.json) for event in events]) + len(",") * (len(events) - 1)
