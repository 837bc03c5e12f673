"""Calls on their way through the pool: a run is what one caller waits for, a stretch what a child is asked at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from relay.errors import SandboxUnavailable, TransformError
from relay.sandbox_faults import Script


class Call(NamedTuple):
    """What transform is called with, as UTF-8; bytes in `raw` that are none are replaced. `evt_json` None: evt is
    JSON.parse(raw), null when raw is no JSON. `query_json` None: there is no query.
    """

    raw: bytes
    evt_json: bytes | None
    headers_json: bytes
    query_json: bytes | None


#: The JSON text of what transform returned, None for null and undefined; or why there is none.
Answer: TypeAlias = bytes | TransformError | SandboxUnavailable | None


class Run:
    """Calls of one script that somebody waits for. `open` counts those that have no answer yet."""

    __slots__ = ("answered", "calls", "open", "operation", "script", "waiter")

    def __init__(self, operation: int, script: Script, calls: Sequence[Call]) -> None:
        self.operation, self.script, self.calls = operation, script, calls
        self.open = len(calls)
        self.answered: list[tuple[int, Answer]] = []  # since they were asked for last: place in `calls`, answer
        self.waiter: asyncio.Future[None] | None = None

    def answer(self, place: int, answers: Sequence[Answer]) -> None:
        """Of the calls from `place` on; once per call. Whoever waits hears of them with the next `tell`."""
        self.open -= len(answers)
        self.answered += enumerate(answers, place)

    def tell(self) -> None:
        """Wake whoever waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def news(self) -> list[tuple[int, Answer]]:
        """The answers since they were asked for last, at least one. Only while some are to come."""
        while not self.answered:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        news, self.answered = self.answered, []
        return news


@dataclass(slots=True, eq=False)
class Stretch:
    """The calls of a run from `start` until before `end`, asked or waiting together. `operation` is how they were
    asked last; `crashes` and `kills` count the children that ended at the first of them.
    """

    run: Run
    start: int
    end: int
    until: float = 0.0  # waits no longer than this, on the event loop's clock
    operation: int = 0
    crashes: int = 0
    kills: int = 0

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def calls(self) -> Sequence[Call]:
        return self.run.calls[self.start : self.end]

    def cut(self, count: int) -> Stretch:
        """The first so many calls, taken away from this one: all that was met so far was at the first of them."""
        first = Stretch(self.run, self.start, self.start + count, self.until, self.operation, self.crashes, self.kills)
        self.start, self.crashes, self.kills = first.end, 0, 0
        return first

    def answer_all(self, answer: Answer) -> None:
        """The same answer for every call of it."""
        self.run.answer(self.start, [answer] * self.size)
        self.start = self.end
        self.run.tell()
