"""What the forwarder says of its work: lines in the log and counters, once per batch, and of a destination's alarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from relay.config import Destination
from relay.errors import StoreUnavailable
from relay.models import EventState, Lane, Outcome, Retry, Settlement
from relay.telemetry import Telemetry

#: Destination and environment.
LaneKey: TypeAlias = tuple[str, str | None]


class ForwarderReports:
    """`settings` are by destination. What is said once, of a missing destination and a lost store, is kept in mind."""

    def __init__(self, telemetry: Telemetry, settings: Mapping[str, Destination]) -> None:
        self._telemetry, self._settings = telemetry, settings
        self._missing: set[str] = set()
        self._store_lost = False
        for name in settings:
            telemetry.destination_stopped.labels(name).set(0)

    def batch(self, key: LaneKey, count: int, size_bytes: int, unsent: Sequence[Outcome], seconds: float) -> None:
        """So many events of so many bytes were answered; `unsent` is what became of those that were not taken."""
        destination, environment = key
        trouble = next((outcome for outcome in unsent if isinstance(outcome, Retry)), None)
        code = trouble.code if trouble else "ok"
        self._telemetry.batches.labels(destination, code).inc()
        self._telemetry.batch_seconds.labels(destination).observe(seconds)
        self._telemetry.batch_events.labels(destination).observe(count)
        self._telemetry.log(
            "batch.refused" if trouble else "batch.sent",
            level="warning" if trouble else "info",
            destination=destination,
            environment=environment,
            events=count,
            bytes=size_bytes,
            code=code,
            message=trouble.message if trouble else None,
            milliseconds=round(seconds * 1000, 1),
        )

    def all_sent(self, key: LaneKey, count: int) -> None:
        """So many events were taken, and it is stored."""
        self._telemetry.events_settled.labels(key[0], EventState.SENT.value, "ok").inc(count)

    def settled(self, key: LaneKey, settlements: Sequence[Settlement]) -> None:
        """These are stored; some of the events may have died."""
        counts = Counter([(settled.state.value, settled.code) for settled in settlements])
        for (state, code), count in counts.items():
            self._telemetry.events_settled.labels(key[0], state, code or "ok").inc(count)
        for ended in settlements:
            if ended.state is EventState.DEAD:
                self._telemetry.log(
                    "event.died",
                    level="error",
                    destination=key[0],
                    environment=key[1],
                    ref=ended.event.ref,
                    id=ended.event.id,
                    code=ended.code,
                    message=ended.message,
                )

    def alarm(self, key: LaneKey, outcomes: Sequence[Outcome], *, is_stopped: bool) -> None:
        """The first lane of a destination is stopped, or its last one is taken again."""
        destination, environment = key
        self._telemetry.destination_stopped.labels(destination).set(int(is_stopped))
        if not is_stopped:
            self._telemetry.log("destination.resumed", destination=destination, environment=environment)
            return
        self._telemetry.log(
            "destination.stopped",
            level="error",
            destination=destination,
            environment=environment,
            message=next(outcome.message for outcome in outcomes if isinstance(outcome, Retry)),
            remedy=f"correct url and event_key of [destinations.{destination}]; its events are kept, and one is "
            f"tried every {self._settings[destination].stopped_retry_seconds:g} s",
        )

    def missing(self, lane: Lane) -> None:
        """A lane's destination is not configured any more."""
        if lane.destination not in self._missing:
            self._missing.add(lane.destination)
            remedy = f"its events wait: configure [destinations.{lane.destination}] again"
            self._telemetry.log(
                "destination.missing", level="error", destination=lane.destination, events=lane.pending, remedy=remedy
            )

    def surprised(self, error: Exception, **fields: object) -> None:
        self._telemetry.surprised("forwarder", error, **fields)

    def lose_store(self, error: StoreUnavailable) -> None:
        if not self._store_lost:
            self._store_lost = True
            self._telemetry.log("store.lost", level="error", stage="forwarder", message=str(error))

    def regain_store(self) -> None:
        if self._store_lost:
            self._store_lost = False
            self._telemetry.log("store.regained", stage="forwarder")
