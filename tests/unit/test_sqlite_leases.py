"""Leases in memory: late workers, reads that are out of date, and bounded memory."""

from __future__ import annotations

from relay.stores.sqlite_leases import Leases


def test_a_row_that_ended_during_a_read_is_not_free_in_that_read() -> None:
    leases = Leases[str](1)
    claim, _ = leases.grant("github", 7, until_ms=100)
    with leases.reading():
        lease = leases.pin(claim, 0)
        assert lease is not None
        leases.end(lease)
        assert not leases.is_free("github", 7)
    with leases.reading():
        assert leases.is_free("github", 7)


def test_a_lease_being_written_does_not_run_out_until_the_write_is_answered() -> None:
    leases = Leases[str](1)
    claim, _ = leases.grant("github", 7, until_ms=100)
    lease = leases.pin(claim, 99)
    assert lease is not None
    assert leases.run_out(100) == []
    assert not leases.is_free("github", 7)
    leases.unpin(lease)
    assert leases.run_out(100) == [lease]
    assert leases.is_free("github", 7)


def test_a_rest_outlasts_the_lease_it_came_from() -> None:
    leases = Leases[str](1)
    claim, _ = leases.grant("github", 7, until_ms=100)
    assert leases.release(claim, 0, rest_until_ms=500) is not None
    assert leases.run_out(499) == []
    assert [lease.seq for lease in leases.run_out(500)] == [7]


def test_ended_leases_take_no_memory() -> None:
    leases = Leases[int](1)
    for seq in range(10_000):
        claim, _ = leases.grant(1, seq, until_ms=10**9)
        lease = leases.pin(claim, 0)
        assert lease is not None
        leases.end(lease)
    assert leases.held_count(1) == 0
    assert len(leases._ends) < 2_000
