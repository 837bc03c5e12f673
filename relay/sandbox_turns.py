"""Who is served next: calls wait script by script, and what is known of a script says how many a child gets at once.

A turn is what a child is given of one script: as many calls as take together about two milliseconds. A script that is
new, slow or suspect has one call in a turn.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from relay.sandbox_calls import Run, Stretch
from relay.sandbox_faults import Script

#: A script whose last call took less CPU time is quick, in seconds: nobody minds to wait for it.
QUICK_SECONDS: Final = 0.002
#: One whose last so many calls all took more is slow. Fewer say little: making the context that a child then uses again
#: takes longer, and each child makes its own.
SLOW_CALLS: Final = 16
#: How long a script that timed out has one child at a time, in seconds.
SUSPECT_SECONDS: Final = 60.0
#: How many scripts are remembered; the others still run, but in fresh contexts, and never take the last idle child.
SCRIPTS_MAX: Final = 10_000
#: A script's first calls have fresh contexts: one that is used again costs as much to make as some twenty of them.
CALLS_BEFORE: Final = 16
NEVER: Final = -(1 << 62)
#: What a child is given in one turn, in seconds of work, in calls and in bytes of bodies: it need not wait for the
#: relay between them. The bytes, because calls that are asked may be larger than those that were measured.
TURN_SECONDS: Final = 0.002
TURN_CALLS_MAX: Final = 64
TURN_BYTES_MAX: Final = 128 * 1024


@dataclass(slots=True)
class Standing:
    """What is known of a script: calls answered (NEVER for one that ended a child), the seconds that each of the last
    ones took when they were quick, how many times in a row they were not, and until when it has one child at a time
    because it timed out.
    """

    answered: int = 0
    seconds: float | None = None
    slow_calls: int = SLOW_CALLS
    suspect_until: float = 0.0

    @property
    def is_slow(self) -> bool:
        """Also as long as nothing is known."""
        return self.slow_calls >= SLOW_CALLS

    def suspect(self, now: float) -> None:
        """It has timed out."""
        self.suspect_until = now + SUSPECT_SECONDS
        self.slow_calls = SLOW_CALLS


@dataclass(slots=True, eq=False)
class Turn:
    """What a child has of one script and has not answered. It is at the first call, or at a later one while the answers
    before that are not written yet.
    """

    script: Script
    stretches: deque[Stretch] = field(default_factory=deque)


class Standings:
    """`reuse`: whether contexts may be used again at all."""

    def __init__(self, *, reuse: bool) -> None:
        self.reuse = reuse
        self._standings: dict[Script, Standing] = {}

    def of(self, script: Script) -> Standing:
        """Scripts come from the configuration, so they are few; a script too many stays unknown."""
        known = self._standings.get(script)
        if known is None:
            known = Standing()
            if len(self._standings) < SCRIPTS_MAX:
                self._standings[script] = known
        return known

    def remember(self, script: Script, answered: int, seconds: float) -> None:
        """So many calls were answered, and each took so long."""
        known = self.of(script)
        known.answered += answered
        if seconds < QUICK_SECONDS:
            known.seconds, known.slow_calls = seconds, 0
        else:
            known.seconds, known.slow_calls = None, known.slow_calls + answered

    def may_reuse(self, known: Standing) -> bool:
        return self.reuse and known.answered >= CALLS_BEFORE

    def turn_calls(self, known: Standing, now: float) -> int:
        """One by one, unless the script is known to be quick and to end by itself."""
        if known.seconds is None or not self.may_reuse(known) or known.suspect_until > now:
            return 1
        return max(1, min(TURN_CALLS_MAX, int(TURN_SECONDS / max(known.seconds, 1e-6))))


class Line:
    """The stretches that wait, by script; the script that waits longest for a turn comes first."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Script, deque[Stretch]] = OrderedDict()

    def __len__(self) -> int:
        """How many scripts wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Script]:
        return iter(self._waiting)

    def add(self, stretch: Stretch) -> None:
        self._waiting.setdefault(stretch.run.script, deque()).append(stretch)

    def take(self, script: Script, calls_max: int) -> list[Stretch]:
        """The script's first calls, at most so many; then the others have their turn first."""
        taken: list[Stretch] = []
        waiting = self._waiting.get(script)
        bytes_left = TURN_BYTES_MAX
        while waiting and calls_max > 0 and bytes_left > 0:
            count, bytes_left = fitting(waiting[0], calls_max, bytes_left)
            taken.append(waiting.popleft() if count == waiting[0].size else waiting[0].cut(count))
            calls_max -= count
        if waiting:
            self._waiting.move_to_end(script)
        elif waiting is not None:
            del self._waiting[script]
        return taken

    def put_last(self, script: Script) -> None:
        """The others, if there are any, have their turn first."""
        if script in self._waiting:
            self._waiting.move_to_end(script)

    def take_late(self, now: float) -> list[Stretch]:
        """Those that have waited as long as they may. They came in order, so that only the first ones are looked at."""
        late: list[Stretch] = []
        for script, waiting in list(self._waiting.items()):
            while waiting and waiting[0].until <= now:
                late.append(waiting.popleft())
            if not waiting:
                del self._waiting[script]
        return late

    def take_all(self) -> list[Stretch]:
        waiting, self._waiting = self._waiting, OrderedDict()
        return [stretch for stretches in waiting.values() for stretch in stretches]

    def forget(self, run: Run) -> None:
        """Its caller has gone."""
        left = deque(stretch for stretch in self._waiting.get(run.script, ()) if stretch.run is not run)
        if left:
            self._waiting[run.script] = left
        else:
            self._waiting.pop(run.script, None)


def fitting(stretch: Stretch, calls_max: int, bytes_left: int) -> tuple[int, int]:
    """How many of its first calls go into a turn, at least one; and the bytes that are left of the turn then."""
    count = 0
    for call in stretch.calls[:calls_max]:
        count += 1
        bytes_left -= len(call.raw)
        if bytes_left <= 0:
            break
    return count, bytes_left
