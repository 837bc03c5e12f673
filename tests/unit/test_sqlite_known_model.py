"""The set of what was seen is like a dict, through every commit, rollback, crash and drop."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.known import SMALL, KnownFile, digest

NUMBER_MAX = 2**63 - 1
#: Some by chance; and some of one bucket, of one print, of zeros that also numbers are made of.
DIGESTS = [
    *(digest(number) for number in range(24)),
    *(b"\x01\x02\x03\x04" + digest(number)[:12] for number in range(8)),
    *(b"\x01\x02" + digest(number)[:14] for number in range(8)),
    *(bytes(15 - zeros) + bytes([zeros]) + bytes(zeros) for zeros in range(8)),
    b"\xff" * 16,
]


class LikeADict(RuleBasedStateMachine):
    """Numbers rise and fall; what was dropped may be unknown or, if it was added more than once, an older number."""

    @initialize(
        span_max=st.sampled_from([None, 5, 50]),
        partition_runs=st.sampled_from([1, 3, 256]),
        steps_per_run=st.sampled_from([0, 16, 400]),
    )
    def start(self, span_max: int | None, partition_runs: int, steps_per_run: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.file = self.folder / "0.db"
        self.file.touch()
        self.span_max = span_max
        self.sizes = replace(SMALL, partition_runs=partition_runs, steps_per_run=steps_per_run)
        self.now: dict[bytes, int] = {}
        self.stored: dict[bytes, int] = {}
        self.added: dict[bytes, set[int]] = {}
        self.savepoints: list[tuple[int, dict[bytes, int]]] = []
        self.floor = -1
        self.open()

    def open(self) -> None:
        self.opened = KnownFile(self.file, self.span_max, self.sizes)

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.connection.close()
            shutil.rmtree(self.folder)

    @rule(each=st.lists(st.tuples(st.sampled_from(DIGESTS), st.integers(0, 100)), min_size=1, max_size=9))
    def add(self, each: list[tuple[bytes, int]]) -> None:
        self.opened.begin()
        for key, number in each:
            self.opened.known.add(key, number)
            self.now[key] = number
            self.added.setdefault(key, set()).add(number)

    @rule(digest=st.sampled_from(DIGESTS), number=st.sampled_from([0, 1, 2**31, 2**32, 2**62, NUMBER_MAX]))
    def add_extreme(self, digest: bytes, number: int) -> None:
        self.add([(digest, number)])

    @rule(each=st.lists(st.sampled_from(DIGESTS), max_size=9), number=st.integers(0, 100))
    def add_new(self, each: list[bytes], number: int) -> None:
        """Many at once, if all of them are new."""
        known = self.opened.known
        is_new = len(set(each)) == len(each) and all(known.find(digest) is None for digest in each)
        assert known.has_none(each) == is_new
        if is_new:
            self.opened.begin()
            known.add_new(each, range(number, number + len(each)))
            for digest, own in zip(each, range(number, number + len(each)), strict=True):
                self.now[digest] = own
                self.added.setdefault(digest, set()).add(own)

    @invariant()
    def knows_what_it_should(self) -> None:
        if hasattr(self, "opened"):
            for digest in DIGESTS:
                self.check(digest)
            absent = [digest for digest in DIGESTS if self.opened.known.find(digest) is None]
            assert self.opened.known.has_none(absent)
            assert all(digest in absent or not self.opened.known.has_none([*absent, digest]) for digest in DIGESTS)

    def check(self, digest: bytes) -> None:
        found, wanted = self.opened.known.find(digest), self.now.get(digest)
        if wanted is None or wanted >= self.floor:
            assert found == wanted
        else:
            assert found in {None, *self.added[digest]}

    @rule()
    def commit(self) -> None:
        self.opened.commit()
        self.stored = dict(self.now)
        self.savepoints.clear()

    @precondition(lambda self: self.opened.connection.in_transaction)
    @rule(late=st.booleans())
    def roll_back(self, late: bool) -> None:
        if late:
            self.opened.known.before_commit()
        self.opened.roll_back()
        self.forget()

    def forget(self) -> None:
        self.now = dict(self.stored)
        self.savepoints.clear()

    @precondition(lambda self: len(self.savepoints) < 3)
    @rule()
    def savepoint(self) -> None:
        self.opened.begin()
        self.opened.connection.execute(f"SAVEPOINT s{len(self.savepoints)}")
        self.savepoints.append((self.opened.known.mark(), dict(self.now)))

    @precondition(lambda self: self.savepoints)
    @rule()
    def back_to_savepoint(self) -> None:
        mark, before = self.savepoints.pop()
        self.opened.connection.execute(f"ROLLBACK TO s{len(self.savepoints)}")
        self.opened.known.undo(mark)
        self.now = before

    @rule()
    def reopen(self) -> None:
        self.opened.connection.close()
        self.open()
        self.forget()

    @rule(late=st.booleans())
    def crash(self, late: bool) -> None:
        """What is in the files at this moment is what the next process finds."""
        if late and self.opened.connection.in_transaction:
            self.opened.known.before_commit()
        copy = self.file.with_name(f"{int(self.file.stem) + 1}.db")
        for ending in ("", "-wal"):
            if Path(f"{self.file}{ending}").exists():
                shutil.copy(f"{self.file}{ending}", f"{copy}{ending}")
        self.opened.connection.close()
        self.file = copy
        self.reopen()

    @rule(below=st.integers(0, 101))
    def drop_below(self, below: int) -> None:
        self.opened.begin()
        self.floor = max(self.floor, below)
        calls = 0
        while self.opened.known.drop_below(below) and calls < 3:
            calls += 1

    @rule()
    def step(self) -> None:
        self.opened.begin()
        self.opened.known.step()


LikeADict.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLikeADict = pytest.mark.timeout(300)(LikeADict.TestCase)
