"""The set of what was seen: it forgets what it should and nothing else, in short steps, whatever is broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from relay.stores.sqlite_file import open_writer
from relay.stores.sqlite_known import Known
from relay.stores.sqlite_known_jobs import SIZES, Drop, Fold
from relay.stores.sqlite_known_prints import BUCKETS, PREFIXES, Partition, Prints, number_in
from tests.support.known import SMALL, KnownFile, digest

#: One step a transaction, whatever is added.
SLOW = replace(SMALL, steps_per_run=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "known.db"
    path.touch()
    return path


@pytest.fixture
def opened(path: Path) -> Iterator[KnownFile]:
    opened = KnownFile(path)
    yield opened
    opened.connection.close()


def test_a_rollback_leaves_nothing(opened: KnownFile) -> None:
    opened.begin()
    opened.known.add(digest("a"), 1)
    assert opened.known.find(digest("a")) == 1
    opened.known.before_commit()
    opened.roll_back()
    assert opened.known.find(digest("a")) is None
    opened.add("b", number=2)
    assert (opened.known.find(digest("a")), opened.known.find(digest("b"))) == (None, 2)


def test_a_drop_that_is_rolled_back_drops_nothing(opened: KnownFile) -> None:
    opened.add(*range(20), number=7)
    opened.settle()
    opened.begin()
    assert opened.known.drop_below(8)
    opened.roll_back()
    opened.settle()
    assert {opened.known.find(digest(name)) for name in range(20)} == {7}


def test_the_last_number_counts_wherever_the_first_one_went(opened: KnownFile) -> None:
    opened.add("again", *range(10), number=1)
    opened.settle()
    opened.add("again", number=2)
    assert opened.known.find(digest("again")) == 2
    opened.add(*range(10, 20), number=3)
    opened.settle()
    assert opened.known.find(digest("again")) == 2


def test_what_comes_again_soon_is_found_without_the_file(opened: KnownFile) -> None:
    said: list[str] = []
    opened.connection.set_trace_callback(said.append)
    for start in range(0, 40, SMALL.run_ids):
        opened.add(*range(start, start + SMALL.run_ids), number=start)
        opened.settle()
        assert {opened.known.find(digest(name)) for name in range(start, start + SMALL.run_ids)} == {start}
    assert not [line for line in said if line.startswith("SELECT")]
    assert opened.known.find(digest(0)) == 0
    assert [line for line in said if line.startswith("SELECT")]


def test_what_is_dropped_is_unknown_at_once_even_if_it_came_last(opened: KnownFile) -> None:
    opened.add(*range(SMALL.run_ids), number=1)
    opened.settle()
    opened.begin()
    opened.known.drop_below(2)
    opened.commit()
    assert {opened.known.find(digest(name)) for name in range(SMALL.run_ids)} == {None}


def test_what_a_transaction_adds_twice_is_taken_back_in_steps(opened: KnownFile) -> None:
    opened.add("a", number=1)
    opened.begin()
    opened.known.add(digest("a"), 2)
    opened.known.add(digest("b"), 3)
    mark = opened.known.mark()
    for number in (4, 5):
        opened.known.add(digest("a"), number)
        opened.known.add(digest(f"c{number}"), number)
    opened.known.undo(mark)
    assert [opened.known.find(digest(name)) for name in ("a", "b", "c4", "c5")] == [2, 3, None, None]
    opened.known.undo(0)
    assert [opened.known.find(digest(name)) for name in ("a", "b")] == [1, None]
    opened.commit()
    assert opened.rows("log") == 1


def test_tables_that_a_rollback_took_are_made_again(path: Path) -> None:
    connection = open_writer(path)
    connection.execute("BEGIN")
    known = Known(connection, "ids", None)
    known.add(digest("a"), 1)
    known.before_commit()
    connection.execute("ROLLBACK")
    known.rolled_back()
    connection.execute("BEGIN")
    known.add(digest("b"), 2)
    known.before_commit()
    connection.execute("COMMIT")
    known.committed()
    again = Known(connection, "ids", None)
    assert (again.find(digest("a")), again.find(digest("b"))) == (None, 2)
    connection.close()


def test_two_of_them_share_a_file(path: Path) -> None:
    connection = open_writer(path)
    connection.execute("BEGIN")
    one, two = Known(connection, "keys", None), Known(connection, "events", 10)
    one.add(digest("a"), 1)
    for each in (one, two):
        each.before_commit()
    connection.execute("COMMIT")
    for each in (one, two):
        each.committed()
    assert (one.find(digest("a")), two.find(digest("a"))) == (1, None)
    connection.close()


@pytest.mark.parametrize("together", [False, True])
def test_numbers_of_a_partition_span_no_more_than_they_may(path: Path, together: bool) -> None:
    opened = KnownFile(path, span_max=10)
    for number in range(0, 200, 5):
        if together:
            opened.begin()
            opened.known.add_new([digest(number)], [number])
            opened.commit()
        else:
            opened.add(number, number=number)
        opened.settle()
    spans = opened.connection.execute("SELECT high - low FROM known_ids_partitions").fetchall()
    assert len(spans) > 10
    assert max(span for (span,) in spans) <= 10
    opened.connection.close()


def test_all_that_is_old_goes_and_nothing_else(path: Path) -> None:
    opened = KnownFile(path, span_max=10)
    for number in range(200):
        opened.add(number, number=number)
    opened.drop(120)
    found = [opened.known.find(digest(number)) for number in range(200)]
    assert found[120:] == list(range(120, 200))
    assert found[:109] == [None] * 109
    opened.drop(1000)
    assert {opened.known.find(digest(number)) for number in range(200)} == {None}
    assert [opened.rows(table) for table in ("log", "rows", "index", "partitions")] == [0, 0, 0, 0]
    assert not any(opened.known._prints.buckets)
    opened.connection.close()


def test_a_loop_in_one_transaction_ends(opened: KnownFile) -> None:
    opened.add(*range(20), number=1)
    opened.begin()
    while opened.known.drop_below(2):
        pass
    while opened.known.step():
        pass
    opened.commit()
    opened.drop(2)
    assert opened.known.find(digest(3)) is None


def test_prints_that_are_missing_or_broken_are_read_from_the_runs(path: Path) -> None:
    opened = KnownFile(path)
    opened.add(*range(100), number=1)
    opened.settle()
    assert opened.rows("index") > 0
    for change in ("UPDATE {0} SET prints = zeroblob(3)", "UPDATE {0} SET counts = x''", "DELETE FROM {0}"):
        opened.connection.execute(change.format("known_ids_index"))
        opened.connection.close()
        opened = KnownFile(path)
        assert {opened.known.find(digest(name)) for name in range(100)} == {1}
    opened.connection.close()


def test_opening_reads_saved_prints_and_hardly_any_entries(path: Path) -> None:
    opened = KnownFile(path)
    for start in range(0, 200, 10):
        opened.add(*range(start, start + 10), number=start)
        opened.settle()
    opened.connection.close()
    connection = open_writer(path)
    said: list[str] = []
    connection.set_trace_callback(said.append)
    known = Known(connection, "ids", None, SMALL)
    read = [line for line in said if "known_ids_rows WHERE place >=" in line]
    unsaved = sum(each.ids - each.saved_ids for each in known._prints.partitions)
    assert len(read) == len(known._prints.partitions) == 7
    assert unsaved <= 6 * SMALL.unsaved_closed_ids_max + SMALL.unsaved_ids_max
    connection.close()


def test_what_is_cut_leaves_the_others_of_its_bucket_in_their_place() -> None:
    prints, first, second, third = Prints(), Partition(1), Partition(2), Partition(3)
    entries = [b"\x01\x02" + digest(name)[:14] + bytes(8) for name in range(9)]
    for partition, start in ((first, 0), (second, 3), (third, 6)):
        prints.partitions.append(partition)
        prints.add(partition, 5, b"".join(entries[start : start + 3]))
    prints.cut(second, 1)
    held = [list(prints.places(entry[:16])) for entry in entries]
    assert held == [[(first, 5)]] * 3 + [[]] * 3 + [[(third, 5)]] * 3


def test_few_absent_digests_are_looked_for_in_vain_among_ten_million_ids() -> None:
    prints, partition = Prints(), Partition(1)
    prints.partitions.append(partition)
    of_one_bucket = 10_000_000 // (PREFIXES * BUCKETS)
    for name in range(of_one_bucket):
        prints.add(partition, 0, b"\x01\x02" + digest(name)[:14] + bytes(8))
    found = sum(any(prints.places(b"\x01\x02" + digest(f"other {name}")[:14])) for name in range(20_000))
    assert 0.002 < found / 20_000 < 0.009


def test_a_digest_is_found_only_where_an_entry_begins() -> None:
    wanted = bytes(range(16))
    beside = bytes(8) + wanted[:8] + wanted[8:] + b"\x01" * 8
    assert len(beside) == 32
    entries = beside[:24] + (b"\x02" * 16 + (5).to_bytes(8, "big"))
    assert number_in(wanted[8:] + bytes(8) + wanted + wanted[:8], wanted) is None
    assert number_in(entries, b"\x02" * 16) == 5
    assert number_in(wanted + (1).to_bytes(8, "big") + wanted + (2).to_bytes(8, "big"), wanted) == 2


def test_every_step_is_short(path: Path) -> None:
    """In rows changed, with the real sizes: two runs of additions, 64 a transaction, then all of it is dropped."""
    opened = KnownFile(path, sizes=SIZES)
    opened.connection.execute("PRAGMA synchronous = OFF")
    changed = [opened.connection.total_changes]
    for start in range(0, 2 * SIZES.run_ids + 6400, 64):
        opened.add(*range(start, start + 64), number=1)
        changed.append(opened.connection.total_changes)
    while opened.rows("partitions") or opened.rows("log"):
        opened.begin()
        opened.known.drop_below(2)
        opened.commit()
        changed.append(opened.connection.total_changes)
    steps = [after - before for before, after in pairwise(changed)]
    assert max(steps) <= max(SIZES.trim_rows, 2 * PREFIXES) + 2
    assert max(steps) >= PREFIXES
    opened.connection.close()


def test_runs_keep_up_with_big_transactions(path: Path) -> None:
    """What is in memory as it came is never more than two runs and a transaction."""
    opened = KnownFile(path)
    for start in range(0, 3000, 30):
        opened.add(*range(start, start + 30), number=start)
        assert len(opened.known._fresh.numbers) <= 60
        assert len(opened.known._recent) <= 60
    opened.connection.close()


def test_the_same_one_again_and_again_makes_runs_too(opened: KnownFile) -> None:
    for number in range(200):
        opened.add("a", number=number)
    assert len(opened.known._fresh.rows[digest("a")[0]]) <= 2 * SMALL.run_ids * 24
    assert opened.known.find(digest("a")) == 199


@pytest.mark.parametrize(("key", "number"), [(b"short", 1), (bytes(17), 1), (bytes(16), -1), (bytes(16), 2**63)])
def test_what_cannot_be_kept_fails_its_transaction_only(opened: KnownFile, key: bytes, number: int) -> None:
    opened.add("a", number=1)
    opened.begin()
    opened.known.add(key, number)
    with pytest.raises((ValueError, OverflowError)):
        opened.known.before_commit()
    opened.roll_back()
    opened.add("b", number=2)
    assert [opened.known.find(digest(name)) for name in "ab"] == [1, 2]


def test_a_small_one_costs_little(path: Path) -> None:
    opened = KnownFile(path, sizes=SIZES)
    opened.add(*range(1000), number=1)
    assert opened.rows("log") == 1
    assert not opened.known._prints.partitions
    assert opened.known.step() is False
    opened.connection.close()


def test_what_is_being_dropped_takes_no_more_in(path: Path) -> None:
    opened = KnownFile(path, sizes=SLOW)
    opened.add(*range(4), number=1)
    opened.settle()
    opened.begin()
    assert opened.known.drop_below(2)
    opened.commit()
    opened.add(*range(10, 16), number=3)
    opened.drop(2)
    opened.settle()
    assert [opened.known.find(digest(name)) for name in (1, 10)] == [None, 3]
    opened.connection.close()


def test_a_partition_goes_at_once_and_the_others_stay_known_while_its_rows_go(path: Path) -> None:
    opened = KnownFile(path, span_max=10, sizes=SLOW)
    for start in range(0, 160, 20):
        opened.add(*range(start, start + 20), number=start)
        opened.settle()
    opened.add("last", number=500)
    opened.settle()
    steps = 0
    while opened.rows("partitions") > 5:
        opened.begin()
        opened.known.drop_below(60)
        opened.commit()
        steps += 1
        found = [opened.known.find(digest(name)) for name in range(160)]
        assert found[:60] == [None] * 60
        assert found[60:] == [name // 20 * 20 for name in range(60, 160)]
    assert steps >= 3
    opened.connection.close()


def test_every_opening_finds_all_of_it(path: Path) -> None:
    for last in range(40):
        opened = KnownFile(path)
        opened.add(last, number=last)
        opened.settle()
        opened.connection.close()
        opened = KnownFile(path)
        assert [opened.known.find(digest(name)) for name in range(last + 1)] == list(range(last + 1))
        opened.connection.close()


def test_a_log_that_was_not_trimmed_is_trimmed_later(path: Path) -> None:
    opened = KnownFile(path, sizes=SLOW)
    for name in range(4):
        opened.add(name, number=1)
    while not opened.rows("partitions"):
        opened.commit()
    assert opened.rows("log") == 4
    opened.connection.close()
    opened = KnownFile(path, sizes=SLOW)
    assert not opened.known._fresh.numbers
    opened.settle()
    assert opened.rows("log") == 0
    assert {opened.known.find(digest(name)) for name in range(4)} == {1}
    opened.connection.close()


def test_jobs_of_a_file_that_was_left_in_the_middle_go_on(path: Path) -> None:
    opened = KnownFile(path, sizes=SLOW)
    opened.add(*range(100), number=1)
    while not any(isinstance(job, Fold) and job.done for job in opened.known._jobs):
        opened.commit()
    assert opened.rows("rows") > 0
    opened.connection.close()
    opened = KnownFile(path, sizes=SLOW)
    assert opened.rows("rows") == 0
    opened.settle()
    opened.begin()
    opened.known.drop_below(2)
    opened.commit()
    opened.connection.close()
    opened = KnownFile(path)
    assert any(isinstance(job, Drop) for job in opened.known._jobs)
    assert {opened.known.find(digest(name)) for name in range(100)} == {None}
    opened.settle()
    assert [opened.rows(table) for table in ("log", "rows", "index", "partitions")] == [0, 0, 0, 0]
    opened.connection.close()


ADDING = """
import sys
from pathlib import Path
from tests.support.known import KnownFile
opened = KnownFile(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10**9):
    opened.add(number, number=number)
    print(number, flush=True)
"""


def test_what_was_committed_survives_sigkill(path: Path) -> None:
    first = 0
    for _ in range(4):
        command = [sys.executable, "-c", ADDING, str(path), str(first)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        for _ in range(100 + first % 7):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        first = int(child.stdout.read().rpartition("\n")[0].rpartition("\n")[2] or first) + 1
        child.wait()
        child.stdout.close()
    opened = KnownFile(path)
    assert [opened.known.find(digest(number)) for number in range(first)] == list(range(first))
    assert opened.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    opened.connection.close()
