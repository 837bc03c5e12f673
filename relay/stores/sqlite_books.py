"""How much there is, by state and by who works on it.

In memory: loaded when the store opens, kept right by every commit.
"""

from __future__ import annotations

from typing import Final

from relay.models import KeptSecret, Lane
from relay.stores.sqlite_feeds import LaneFeed, Room, SourceFeed
from relay.stores.sqlite_values import DELIVERY_STATES, EVENT_STATES

LANES_MAX: Final = 10_000


class Books:
    """`ended_deliveries` and `ended_events` count by a state's number; place 0, what is open, is in the feeds."""

    __slots__ = (
        "_delivery_room",
        "_event_room",
        "ended_deliveries",
        "ended_events",
        "lanes",
        "numbers",
        "secrets",
        "sources",
    )

    def __init__(self) -> None:
        self.ended_deliveries = [0] * len(DELIVERY_STATES)
        self.ended_events = [0] * len(EVENT_STATES)
        self._delivery_room, self._event_room = Room(), Room()
        self.sources: dict[str, SourceFeed] = {}
        self.lanes: dict[int, LaneFeed] = {}
        self.numbers: dict[tuple[str, str | None], int] = {}
        self.secrets: dict[str, list[KeptSecret]] = {}  # by source, the newest first

    def source(self, name: str) -> SourceFeed:
        """The feed of a source, opened at first use."""
        feed = self.sources.get(name)
        if feed is None:
            feed = self.sources[name] = SourceFeed(name, self._delivery_room)
        return feed

    def lane(self, number: int, destination: str, environment: str | None) -> LaneFeed:
        """The feed of a lane, opened at first use."""
        lane = self.lanes.get(number)
        if lane is None:
            lane = self.lanes[number] = LaneFeed(number, destination, environment, self._event_room)
            self.numbers[destination, environment] = number
        return lane

    def make_room(self) -> None:
        """After a claim: what was read beyond it may be too much."""
        self._delivery_room.make()
        self._event_room.make()

    @property
    def received_by_source(self) -> dict[str, int]:
        return {name: feed.open for name, feed in self.sources.items() if feed.open}

    def count_deliveries(self) -> dict[str, int]:
        """By state."""
        counts = {str(state): self.ended_deliveries[number] for number, state in enumerate(DELIVERY_STATES)}
        return {**counts, str(DELIVERY_STATES[0]): sum(feed.open for feed in self.sources.values())}

    def count_events(self) -> dict[str, int]:
        """By state."""
        counts = {str(state): self.ended_events[number] for number, state in enumerate(EVENT_STATES)}
        return {**counts, str(EVENT_STATES[0]): sum(lane.open for lane in self.lanes.values())}

    def unclaimed_lanes(self, now_ms: int) -> list[Lane]:
        """Lanes with pending events that nobody holds, the first due first."""
        found = [
            Lane(lane.destination, lane.environment, lane.unclaimed, lane.due_ms(now_ms))
            for lane in self.lanes.values()
            if lane.open > lane.held
        ]
        found.sort(key=lambda lane: lane.due_ms)
        return found[:LANES_MAX]
