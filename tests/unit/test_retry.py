"""relay.retry: delays double, keep to their bounds and honour the sink; only the window ends an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Destination
from relay.models import ClaimedEvent, Dead, EventState, Retry, Sent
from relay.retry import ATTEMPTS_MIN, MS_PER_HOUR, LaneState, backoff_ms, settlement

RULES = Destination(retry_delay_ms_min=500, retry_delay_ms_max=60_000, retry_hours=72, stopped_retry_seconds=60)
BUSY = Retry("destination_busy", "slow down")
STOPPED = Retry("destination_stopped", "no such key", stop=True)
NOW_MS = 1_800_000_000_000


def event(*, attempt: int = 0, age_hours: float = 0) -> ClaimedEvent:
    created_ms = NOW_MS - round(age_hours * MS_PER_HOUR)
    return ClaimedEvent(claim=1, ref="01A.0", id="e1", json=b"{}", attempt=attempt, created_ms=created_ms)


def test_delays_double_up_to_the_maximum() -> None:
    delays = [backoff_ms(failures, RULES, 0.0) for failures in range(1, 10)]
    assert delays == [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]


@given(failures=st.integers(0, 10**9), chance=st.floats(0, 1, exclude_max=True))
def test_every_delay_is_within_its_bounds(failures: int, chance: float) -> None:
    assert 250 <= backoff_ms(failures, RULES, chance) <= 60_000


def test_chance_spreads_the_delays() -> None:
    assert backoff_ms(4, RULES, 0.99) < backoff_ms(4, RULES, 0.5) < backoff_ms(4, RULES, 0.0)


def test_the_sink_may_ask_for_more_but_not_for_less() -> None:
    assert backoff_ms(1, RULES, 0.0, after_seconds=90) == 90_000
    assert backoff_ms(9, RULES, 0.0, after_seconds=1) == 60_000


def test_sent_keeps_the_id_that_inngest_gave() -> None:
    settled = settlement(event(), Sent("01INNGEST"), RULES, NOW_MS, 500)
    assert (settled.state, settled.inngest_id) == (EventState.SENT, "01INNGEST")


def test_dead_keeps_the_message() -> None:
    settled = settlement(event(), Dead("event_refused", "event name is empty"), RULES, NOW_MS, 500)
    assert (settled.state, settled.code, settled.message) == (EventState.DEAD, "event_refused", "event name is empty")


def test_a_retry_waits_for_its_delay_and_is_counted() -> None:
    settled = settlement(event(), BUSY, RULES, NOW_MS, 700)
    assert (settled.state, settled.at_ms, settled.counted) == (EventState.PENDING, NOW_MS + 700, True)
    assert (settled.code, settled.message) == ("destination_busy", "slow down")


@pytest.mark.parametrize(("age_hours", "dies"), [(71.99, False), (72, True), (500, True)])
def test_the_window_ends_an_event_that_keeps_being_refused(age_hours: float, dies: bool) -> None:
    settled = settlement(event(attempt=50, age_hours=age_hours), BUSY, RULES, NOW_MS, 700)
    assert (settled.state is EventState.DEAD) == dies
    assert settled.code == ("retries_exhausted" if dies else "destination_busy")
    assert settled.message is not None
    assert "slow down" in settled.message


@pytest.mark.parametrize("attempt", range(ATTEMPTS_MIN - 1))
def test_an_old_event_still_gets_its_first_tries(attempt: int) -> None:
    assert settlement(event(attempt=attempt, age_hours=100), BUSY, RULES, NOW_MS, 1).state is EventState.PENDING


def test_a_stopped_destination_never_ends_an_event_and_counts_nothing() -> None:
    settled = settlement(event(attempt=10**6, age_hours=10**5), STOPPED, RULES, NOW_MS, 700)
    assert (settled.state, settled.counted, settled.at_ms) == (EventState.PENDING, False, NOW_MS + 700)


FAILING = Retry("destination_failing", "500")


def lane(limit: int = 512, **state: object) -> LaneState:
    return LaneState(limit, **state)  # type: ignore[arg-type]  # each test names the fields it is about


def test_a_failing_lane_waits_longer_and_sends_less_each_time() -> None:
    state = lane()
    seen = []
    for _ in range(11):
        state.learn([FAILING] * state.limit, RULES, NOW_MS, 0.0)
        seen.append((state.limit, state.resume_ms - NOW_MS))
    assert [limit for limit, _ in seen] == [256, 128, 64, 32, 16, 8, 4, 2, 1, 1, 1]
    assert [wait_ms for _, wait_ms in seen[:4]] == [500, 1000, 2000, 4000]


def test_success_grows_the_batch_back_and_forgets_the_failures() -> None:
    state = lane(1, failures=9)
    for expected in (2, 4, 8):
        state.learn([Sent(None)], RULES, NOW_MS, 0.0)
        assert (state.limit, state.failures) == (expected, 0)
    assert not state.is_well(RULES)
    for _ in range(10):
        state.learn([Dead("event_refused", "bad")], RULES, NOW_MS, 0.0)
    assert state.limit == RULES.batch_events_max
    assert state.is_well(RULES)


def test_a_busy_lane_waits_but_does_not_shrink() -> None:
    state = lane()
    state.learn([Retry("destination_busy", "429", after_seconds=7)] * 512, RULES, NOW_MS, 0.0)
    assert (state.limit, state.resume_ms) == (512, NOW_MS + 7000)


def test_a_stopped_lane_tries_one_event_every_so_often_and_a_503_does_not_resume_it() -> None:
    state = lane()
    state.learn([STOPPED] * 512, RULES, NOW_MS, 0.0)
    assert (state.limit, state.stopped, state.resume_ms) == (1, True, NOW_MS + 60_000)
    state.learn([FAILING], RULES, NOW_MS, 0.0)
    assert state.stopped
    state.learn([Sent(None)], RULES, NOW_MS, 0.0)
    assert not state.stopped


def test_progress_keeps_the_wait_short() -> None:
    state = lane(failures=6)
    state.learn([Sent(None), FAILING], RULES, NOW_MS, 0.0)
    assert (state.failures, state.resume_ms) == (1, NOW_MS + 500)
