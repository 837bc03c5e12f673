"""Sinks for `relay dev`: forward to the Dev Server while one answers, print the events while none does."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final, TextIO

import aiohttp

from relay.inngest import InngestSink
from relay.models import ClaimedEvent, Outcome, Retry, Sent

#: Lines and columns of one event's JSON that are printed.
LINES_MAX: Final = 40
COLUMNS_MAX: Final = 200
PROBE_SECONDS: Final = 0.5
#: For so long an answer, or its absence, is believed.
BELIEVE_SECONDS: Final = 2.0


class TerminalSink:
    """Prints every event for a person to read; what could be printed counts as sent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    async def send(self, events: Sequence[ClaimedEvent], environment: str | None) -> list[Outcome]:
        return [self._print(readable(event, environment)) for event in events]

    async def close(self) -> None:
        """Nothing to let go of: the stream is the caller's."""

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> Outcome:
        encoding = self._stream.encoding or "utf-8"
        try:
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=self._stream, flush=True)
        except (OSError, ValueError) as error:
            return Retry("destination_unreachable", f"the terminal is closed: {type(error).__name__}")
        return Sent(None)


class DevSink:
    """The Dev Server when it answers, else the terminal. Says which of the two at the start and at every change.

    A Dev Server that goes away in the middle of a batch leaves it to be retried; the next try asks anew.
    """

    def __init__(self, server: InngestSink, terminal: TerminalSink) -> None:
        self._server = server
        self._terminal = terminal
        self._answers: bool | None = None
        self._believed_until = 0.0

    async def send(self, events: Sequence[ClaimedEvent], environment: str | None) -> list[Outcome]:
        sink = self._server if await self.answers() else self._terminal
        outcomes = await sink.send(events, environment)
        if any(isinstance(outcome, Retry) for outcome in outcomes):
            self._believed_until = 0.0
        return outcomes

    async def answers(self) -> bool:
        """Whether a Dev Server answers now, or did up to BELIEVE_SECONDS ago."""
        if time.monotonic() >= self._believed_until:
            self._learn(await probe(f"{self._server.settings.url}/dev"))
        return bool(self._answers)

    async def close(self) -> None:
        await self._server.close()
        await self._terminal.close()

    def _learn(self, answers: bool) -> None:
        self._believed_until = time.monotonic() + BELIEVE_SECONDS
        if answers == self._answers:
            return
        self._answers = answers
        url = self._server.settings.url
        self._terminal.say(
            f"An Inngest Dev Server answers at {url}: events are forwarded to it."
            if answers
            else f"No Inngest Dev Server answers at {url}: events are printed here until one does."
        )


async def probe(url: str) -> bool:
    """Whether anything speaks HTTP there: versions of the Dev Server differ in which pages they have."""
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False):
            return True
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def readable(event: ClaimedEvent, environment: str | None) -> str:
    """A headline and the event's JSON, indented, cut to the terminal's measure, without control characters."""
    name, text = name_and_text(event.json)
    lines = text.split("\n")
    shown = [f"  {cut(line)}" for line in lines[:LINES_MAX]]
    if len(lines) > LINES_MAX:
        shown.append(f"  … {len(lines) - LINES_MAX} more lines: relay events show {event.ref}")
    where = "" if environment is None else f"  env {environment}"
    return "\n".join([cut(f"event {name}  id {event.id}{where}"), *shown])


def name_and_text(event_json: bytes) -> tuple[str, str]:
    try:
        value = json.loads(event_json)
        return str(value["name"]), json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:  # deeper than can be indented: as it is
        return "(deeply nested)", event_json.decode("utf-8", "replace")


def cut(line: str) -> str:
    """One line of at most COLUMNS_MAX characters that a terminal cannot take for commands."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: COLUMNS_MAX + 1])
    return safe if len(line) <= COLUMNS_MAX else f"{safe[:COLUMNS_MAX]}…"
