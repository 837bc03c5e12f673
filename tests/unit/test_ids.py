"""The ids of deliveries: ULIDs, never the same twice, in the order of time."""

from __future__ import annotations

import time

from ulid import ULID

from relay.ids import ENDS, Ids


def test_ids_are_ulids_of_now_and_none_comes_twice() -> None:
    before_ms, new_id = time.time_ns() // 1_000_000, Ids()
    made = [new_id() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    times = [ULID.from_str(each).milliseconds for each in made]
    assert times == sorted(times)
    assert before_ms <= times[0] <= times[-1] <= time.time_ns() // 1_000_000


def test_two_that_make_ids_at_the_same_time_share_none() -> None:
    one, two = Ids(), Ids()
    assert {one() for _ in range(5000)}.isdisjoint({two() for _ in range(5000)})


def test_several_at_once_are_as_one_after_the_other() -> None:
    new_ids = Ids().several
    made = [each for count in (0, 1, 64, len(ENDS)) * 20 for each in new_ids(count)]
    assert len(set(made)) == len(made) == 20 * (1 + 64 + len(ENDS))
    times = [ULID.from_str(each).milliseconds for each in made]
    assert times == sorted(times)


def test_ids_of_one_millisecond_count_up() -> None:
    new_id = Ids()
    made = [new_id() for _ in range(3 * len(ENDS))]
    by_start: dict[str, list[str]] = {}
    for each in made:
        by_start.setdefault(each[:24], []).append(each)
    assert all(ids == sorted(ids) for ids in by_start.values())
    assert all(len(ids) <= len(ENDS) for ids in by_start.values())
