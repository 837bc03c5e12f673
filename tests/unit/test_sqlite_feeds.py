"""Feeds: whatever commits, reads, claims and forgetting do to each other, everything is taken once and in order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.stores import sqlite_feeds
from relay.stores.sqlite_feeds import Feed, LaneFeed, OpenEvent, Room

ROOM_BYTES = 200
NAMES = st.sampled_from("ab")
MEANWHILE = st.lists(st.sampled_from(["commit", "tell", "tell", "a", "b"]), max_size=4)


class FeedMachine(RuleBasedStateMachine):
    """A file with two feeds: `committed` is in the file, `told` of it the loop has heard, in the same order, later."""

    def __init__(self) -> None:
        super().__init__()
        self.count_max = sqlite_feeds.FEED_COUNT_MAX
        vars(sqlite_feeds)["FEED_COUNT_MAX"] = 6
        self.room = Room(ROOM_BYTES)
        self.feeds = {name: Feed[int](name, self.room) for name in "ab"}
        self.committed: list[tuple[int, str, int]] = []
        self.told = 0
        self.done: set[int] = set()
        self.held: dict[str, list[int]] = {"a": [], "b": []}
        self.taken_fresh: dict[str, list[int]] = {"a": [], "b": []}

    def teardown(self) -> None:
        try:
            self.everything_is_taken_in_the_end()
        finally:
            vars(sqlite_feeds)["FEED_COUNT_MAX"] = self.count_max

    @rule(name=NAMES, sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4))
    def commit(self, name: str, sizes: list[int]) -> None:
        for size in sizes:
            self.committed.append((len(self.committed) + 1, name, size))

    @rule(count=st.integers(1, 5))
    def tell(self, count: int) -> None:
        heard = self.committed[self.told : self.told + max(count, 0)]
        self.told += len(heard)
        for name in "ab":
            if items := [(seq, size, seq) for seq, owner, size in heard if owner == name]:
                self.feeds[name].add(items)

    @rule(name=NAMES, count=st.integers(1, 5), bytes_max=st.integers(1, 300))
    def take(self, name: str, count: int, bytes_max: int) -> None:
        feed, fresh = self.feeds[name], set(self.feeds[name].fresh)
        there = sorted([*feed.front, *feed.fresh])
        taken = feed.take(count, bytes_max)
        assert taken == there[: len(taken)], "in the order of the file"
        assert len(taken) <= count
        assert len(taken) <= 1 or sum(size for _, size, _ in taken) <= bytes_max
        if len(taken) < min(count, len(there)):
            assert sum(size for _, size, _ in there[: len(taken) + 1]) > bytes_max
            assert taken, "at least one"
        for seq, size, _ in taken:
            assert seq not in self.done
            assert seq not in self.held[name]
            self.held[name].append(seq)
            if (seq, size, seq) in fresh:
                self.taken_fresh[name].append(seq)
        feed.taken_from()
        self.room.make()

    @rule(name=NAMES, place=st.integers(0, 9), back=st.booleans())
    def end(self, name: str, place: int, back: bool) -> None:
        held, feed = self.held[name], self.feeds[name]
        if place < len(held):
            seq = held.pop(place)
            feed.held -= 1
            if back:
                feed.give_back(seq, seq)
            else:
                self.tell(seq - self.told)  # answers come in the order of the commits, and that of the end is the last
                self.done.add(seq)
                feed.open -= 1

    @rule(name=NAMES)
    def fall_behind(self, name: str) -> None:
        self.feeds[name].fall_behind()

    @rule(name=NAMES, count=st.integers(1, 6), fails=st.booleans(), before=MEANWHILE, after=MEANWHILE)
    def read(self, name: str, count: int, fails: bool, before: list[str], after: list[str]) -> None:
        """The reader's thread takes its snapshot at some time between the begin and the end."""
        feed = self.feeds[name]
        if not feed.behind:
            return
        since = feed.last
        feed.begin_read()
        for what in before:
            self.meanwhile(what)
        rows = [
            (seq, size, seq)
            for seq, owner, size in self.committed
            if owner == name and seq > since and seq not in self.done
        ]
        for what in after:
            self.meanwhile(what)
        if fails:
            feed.break_read()
        else:
            feed.end_read(rows[:count], len(rows) < count)

    def meanwhile(self, what: str) -> None:
        if what == "commit":
            self.commit("a", [20])
            self.commit("b", [70, 70])
        elif what == "tell":
            self.tell(2)
        else:
            self.take(what, 2, 300)

    @rule(name=NAMES, count=st.integers(1, 3), some=st.integers(0, 3))
    def load(self, name: str, count: int, some: int) -> None:
        feed = self.feeds[name]
        seqs = feed.begin_loading(count)
        sizes = {seq: size for seq, _, size in self.committed}
        feed.end_loading([(seq, sizes[seq], seq) for seq in seqs[:some]], seqs[some:])

    @invariant()
    def what_is_fresh_is_taken_once_and_in_order(self) -> None:
        for name, taken in self.taken_fresh.items():
            assert taken == sorted(set(taken)), name

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.room.used_bytes == sum(feed.bytes for feed in self.feeds.values())
        for feed in self.feeds.values():
            assert feed.bytes == sum(item[1] for item in (*feed.front, *feed.fresh))

    @invariant()
    def no_mark_is_too_high(self) -> None:
        for name, feed in self.feeds.items():
            mark = feed.done_to(min(self.held[name], default=None))
            told = [seq for seq, owner, _ in self.committed[: self.told] if owner == name]
            assert all(seq in self.done for seq in told if seq <= mark)
            assert all(seq > mark for seq, owner, _ in self.committed[self.told :] if owner == name)

    def everything_is_taken_in_the_end(self) -> None:
        self.tell(len(self.committed))
        for name, feed in self.feeds.items():
            for _ in range(1000):
                if feed.returned:
                    self.load(name, 3, 3)
                elif feed.behind:
                    self.read(name, 4, False, [], [])
                self.take(name, 100, 10**6)
                if not (feed.behind or feed.returned or feed.ready):
                    break
            mine = {seq for seq, owner, _ in self.committed if owner == name}
            assert mine == (self.done & mine) | set(self.held[name])
            assert feed.open == feed.held == len(self.held[name])


FeedMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestFeeds = FeedMachine.TestCase


def opened(name: str, *, retried: bool = False) -> OpenEvent:
    return OpenEvent(f"d.{name}", name, b"{}", 1_000, "github", retried=retried)


def test_the_feed_that_was_taken_from_the_longest_ago_gives_way() -> None:
    room = Room(100)
    stuck, busy = Feed[str]("stuck", room), Feed[str]("busy", room)
    stuck.add([(1, 60, "s1")])
    busy.add([(2, 30, "b1")])
    busy.take(1, 30)
    busy.taken_from()
    busy.add([(3, 60, "b2")])
    assert (stuck.ready, stuck.behind, stuck.last) == (0, True, 0)
    assert (busy.ready, busy.behind) == (1, False)


def test_a_lane_is_due_when_its_first_event_is() -> None:
    lane = LaneFeed(1, "default", None, Room())
    assert lane.due_ms(5_000) == sqlite_feeds.NEVER_MS
    lane.add([(1, 10, opened("e1"))])
    assert (lane.due_ms(5_000), lane.due_ms(500)) == (1_000, 500), "at once, also under a clock that was set back"
    ((seq, _, event),) = lane.take(1, 10)
    lane.held -= 1
    lane.settled(seq, event, 9_000)
    assert (lane.open, lane.retried, lane.due_ms(5_000)) == (1, 1, 9_000)
    assert not lane.needs_retried(8_999)
    assert lane.needs_retried(9_000)


def test_a_retried_event_that_is_forgotten_is_found_by_its_time_again() -> None:
    lane = LaneFeed(1, "default", None, Room())
    lane.open = lane.retried = 1
    assert lane.begin_retried() == frozenset()
    lane.end_retried([(7, 10, opened("e7", retried=True))], sqlite_feeds.NEVER_MS)
    assert (lane.loaded, lane.due_ms(5_000)) == ({7}, 1_000)
    lane.forget()
    assert (lane.loaded, lane.returned, lane.needs_retried(5_000)) == (set(), [], True)


def test_what_is_taken_is_counted_as_the_caller_counts() -> None:
    feed = Feed[str]("github", Room())
    feed.add([(seq, 30, f"thing {seq}") for seq in range(1, 6)])
    assert [seq for seq, _, _ in feed.take(5, 20, beside_bytes=20)] == [1, 2]
    assert feed.take(5, 9, beside_bytes=20, least=0) == []
    assert [seq for seq, _, _ in feed.take(5, 9, beside_bytes=20)] == [3]
    assert [seq for seq, _, _ in feed.take(5, 20, beside_bytes=20)] == [4, 5]
    assert (feed.held, feed.bytes, feed.ready) == (5, 0, 0)


def test_what_is_beyond_the_bound_is_left_to_the_file() -> None:
    feed = Feed[int]("github", Room())
    feed.begin_read()
    feed.add([(seq, 1, seq) for seq in range(2, sqlite_feeds.FEED_COUNT_MAX + 2)])
    feed.end_read([(1, 1, 1)], is_all=True)
    assert (feed.ready, feed.behind) == (sqlite_feeds.FEED_COUNT_MAX + 1, False)
    feed.add([(seq, 1, seq) for seq in range(feed.last + 1, feed.last + 4)])
    assert (feed.ready, feed.behind) == (sqlite_feeds.FEED_COUNT_MAX + 1, True)
    assert (feed.open, feed.last) == (sqlite_feeds.FEED_COUNT_MAX + 3, sqlite_feeds.FEED_COUNT_MAX + 1)
