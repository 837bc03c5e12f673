"""The outcome of an attempt → how the event is settled, and when it and its lane are tried again.

Pure: time and chance come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from relay.models import ClaimedEvent, Dead, EventState, Outcome, Retry, Sent, Settlement

#: Counted attempts that every event gets before its window may end it: one that waited the window out behind a
#: stopped destination, or that a person replayed, must not die while the backlog is still being slowed down (429).
ATTEMPTS_MIN: Final = 10
#: Beyond so many doublings every delay is at its maximum anyway.
DOUBLINGS_MAX: Final = 32
MS_PER_HOUR: Final = 3_600_000
#: Trouble that one event of a batch may be the cause of: smaller batches find it.
SHRINKING: Final = frozenset({"destination_failing", "destination_unreachable", "answer_unreadable"})


class RetryRules(Protocol):
    """What is read of a destination's settings."""

    @property
    def retry_hours(self) -> float: ...
    @property
    def retry_delay_ms_min(self) -> int: ...
    @property
    def retry_delay_ms_max(self) -> int: ...
    @property
    def stopped_retry_seconds(self) -> float: ...
    @property
    def batch_events_max(self) -> int: ...


@dataclass(slots=True)
class LaneState:
    """What a lane has learned from its answers: how much to send next, and not before when."""

    limit: int  # events in the next batch
    failures: int = 0  # in a row
    resume_ms: int = 0
    stopped: bool = False
    troubles: int = 0  # how often it met any

    def learn(self, outcomes: Sequence[Outcome], rules: RetryRules, now_ms: int, random_fraction: float) -> None:
        """Grow on success; on trouble wait, and shrink where a single event may be the cause."""
        refused = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
        self.troubles += bool(refused)
        if not refused:
            self.limit, self.failures, self.stopped = min(self.limit * 2, rules.batch_events_max), 0, False
        elif any(outcome.stop for outcome in refused):
            self.limit, self.stopped = 1, True
            self.resume_ms = now_ms + round(rules.stopped_retry_seconds * 1000)
        else:
            self.failures = self.failures + 1 if len(refused) == len(outcomes) else 1
            after_seconds = max(outcome.after_seconds or 0 for outcome in refused)
            self.resume_ms = now_ms + backoff_ms(self.failures, rules, random_fraction, after_seconds)
            if refused[0].code in SHRINKING:
                self.limit = max(1, len(refused) // 2)

    def is_well(self, rules: RetryRules) -> bool:
        """Whether there is nothing to remember."""
        return not self.failures and not self.stopped and self.limit >= rules.batch_events_max


def backoff_ms(failures: int, rules: RetryRules, random_fraction: float, after_seconds: float | None = None) -> int:
    """How long to wait after so many failures in a row (1 is the first): doubled each time, up to the maximum, of
    which chance (0 ≤ `random_fraction` < 1) takes up to half. Never less than the sink asked for.
    """
    doublings = min(max(failures - 1, 0), DOUBLINGS_MAX)
    ceiling = min(rules.retry_delay_ms_max, rules.retry_delay_ms_min << doublings)
    delay_ms = round(ceiling * (1 - random_fraction / 2))
    return max(delay_ms, round((after_seconds or 0) * 1000), 1)


def all_settled(events: Sequence[ClaimedEvent], outcomes: Sequence[Outcome]) -> list[Settlement]:
    """How the attempt ends for events that were all taken."""
    sent = EventState.SENT
    return [
        Settlement(event, sent, outcome.inngest_id)
        for event, outcome in zip(events, outcomes, strict=True)
        if isinstance(outcome, Sent)
    ]


def settlement(event: ClaimedEvent, outcome: Outcome, rules: RetryRules, now_ms: int, delay_ms: int) -> Settlement:
    """How this attempt ends for the event; `delay_ms` is how long it waits if it is to be tried again."""
    match outcome:
        case Sent(inngest_id):
            return Settlement(event, EventState.SENT, inngest_id)
        case Dead(code, message):
            return Settlement(event, EventState.DEAD, code=code, message=message)
        case Retry(code, message) if is_exhausted(event, outcome, rules, now_ms):
            text = f"not accepted within {rules.retry_hours:g} hours; the last answer ({code}): {message}"
            return Settlement(event, EventState.DEAD, code="retries_exhausted", message=text)
        case Retry(code, message, stop=stop):
            at_ms = now_ms + delay_ms
            return Settlement(event, EventState.PENDING, code=code, message=message, at_ms=at_ms, counted=not stop)


def is_exhausted(event: ClaimedEvent, outcome: Retry, rules: RetryRules, now_ms: int) -> bool:
    """Whether the window is over. A stopped destination is somebody's to repair, so its events wait for ever."""
    tried_enough = event.attempt + 1 >= ATTEMPTS_MIN
    return not outcome.stop and tried_enough and now_ms - event.created_ms >= rules.retry_hours * MS_PER_HOUR
