"""Leases in memory: late workers, what goes back to its feed, and bounded memory."""

from __future__ import annotations

from relay.stores.sqlite_feeds import Feed, Room
from relay.stores.sqlite_leases import Lease, Leases


def feed_of(*seqs: int) -> Feed[str]:
    feed = Feed[str]("github", Room())
    if seqs:
        feed.add([(seq, 10, f"thing {seq}") for seq in seqs])
    return feed


def taken(leases: Leases[str], feed: Feed[str], until_ms: int = 100) -> Lease[str]:
    (lease,) = held = leases.hold(feed, feed.take(1, 10), until_ms)
    leases.note(held, until_ms)
    return lease


def pinned(leases: Leases[str], claim: int, now_ms: int) -> Lease[str] | None:
    (lease,) = leases.pin([claim], now_ms)
    return lease


def test_what_is_given_back_is_read_again_and_counts_its_tries() -> None:
    leases, feed = Leases[str](1), feed_of(7, 8)
    lease = taken(leases, feed)
    assert (lease.attempt, feed.unclaimed, feed.done_to(7)) == (1, 1, 6)
    assert leases.release(lease.claim, 0) is lease
    assert (feed.unclaimed, feed.returned, feed.done_to(None)) == (2, [7], 6)
    assert feed.needs_read(1), "what is older comes before what is in memory"
    assert feed.begin_loading(5) == [7]
    feed.end_loading([(7, 10, "thing 7")], ())
    assert taken(leases, feed).attempt == 2
    assert taken(leases, feed).attempt == 1


def test_a_lease_being_written_does_not_run_out_until_the_write_is_answered() -> None:
    leases, feed = Leases[str](1), feed_of(7)
    lease = pinned(leases, taken(leases, feed).claim, 99)
    assert lease is not None
    assert pinned(leases, lease.claim, 99) is None
    assert leases.run_out(100) == []
    assert feed.unclaimed == 0
    leases.unpin(lease)
    assert leases.run_out(100) == [lease]
    assert (feed.unclaimed, feed.returned) == (1, [7])


def test_a_rest_outlasts_the_lease_it_came_from_and_holds_no_body() -> None:
    leases, feed = Leases[str](1), feed_of(7)
    claim = taken(leases, feed).claim
    resting = leases.release(claim, 0, rest_until_ms=500)
    assert resting is not None
    assert resting.thing is None
    assert leases.next_rest_end_ms() == 500
    assert leases.lowest() == {feed: 7}
    assert leases.run_out(499) == []
    assert feed.unclaimed == 0
    assert [lease.seq for lease in leases.run_out(500)] == [7]
    assert feed.returned == [7]


def test_leases_of_one_claim_end_each_for_itself() -> None:
    leases, feed = Leases[str](1), feed_of(1, 2, 3)
    held = leases.hold(feed, feed.take(3, 100), 100)
    leases.note(held, 100)
    leases.end(held[0])
    leases.release(held[1].claim, 0)
    assert leases.run_out(100) == [held[2]]
    assert feed.returned == [2, 3]
    assert feed.held == 0


def test_ended_leases_take_no_memory() -> None:
    leases, feed = Leases[str](1), feed_of()
    for seq in range(1, 10_001):
        feed.add([(seq, 10, "thing")])
        lease = pinned(leases, taken(leases, feed, until_ms=10**9).claim, 0)
        assert lease is not None
        leases.end(lease)
    assert feed.held == 0
    assert len(leases._ends) < 2_000


def test_the_clock_set_back_shortens_nothing_and_lengthens_nothing() -> None:
    leases, feed = Leases[str](1), feed_of(1, 2)
    held, rested = taken(leases, feed, until_ms=1000), taken(leases, feed, until_ms=1000)
    leases.release(rested.claim, 900, rest_until_ms=2000)
    leases.set_back(800)
    assert leases.run_out(199) == []
    assert leases.run_out(200) == [held]
    assert leases.run_out(1199) == []
    assert leases.run_out(1200) == [rested]
