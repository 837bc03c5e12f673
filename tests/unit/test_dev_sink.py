"""relay.dev_sink: events are printed for people, and forwarded as soon as a Dev Server answers."""

from __future__ import annotations

import io
import json

from relay.config import Destination
from relay.dev_sink import BELIEVE_SECONDS, COLUMNS_MAX, LINES_MAX, DevSink, TerminalSink
from relay.inngest import InngestSink
from relay.models import ClaimedEvent, Retry, Sent
from tests.support.fake_inngest import FakeInngest


def claimed(data: object = None, *, event_json: bytes | None = None) -> ClaimedEvent:
    text = json.dumps({"id": "e1", "name": "test/x", "data": data}).encode() if event_json is None else event_json
    return ClaimedEvent(claim=1, ref="01A.0", id="e1", json=text, attempt=0, created_ms=0)


async def printed(event: ClaimedEvent, environment: str | None = None) -> str:
    stream = io.StringIO()
    assert await TerminalSink(stream).send([event], environment) == [Sent(None)]
    return stream.getvalue()


async def test_an_event_is_printed_readably() -> None:
    text = await printed(claimed({"who": "Zoë"}), "pr-17")
    assert text.startswith("event test/x  id e1  env pr-17\n  {\n")
    assert '"who": "Zoë"' in text


async def test_long_events_are_cut() -> None:
    text = await printed(claimed({"list": list(range(1000)), "long": "x" * 1000}))
    assert len(text.splitlines()) == LINES_MAX + 2
    assert "more lines: relay events show 01A.0" in text
    assert max(map(len, (await printed(claimed("x" * 1000))).splitlines())) <= COLUMNS_MAX + 3


async def test_an_event_cannot_command_the_terminal() -> None:
    text = await printed(claimed({"x": "\x1b[2J \x9b2J \u202e"}))
    assert text.replace("\n", "").isprintable()


async def test_a_deeply_nested_event_is_printed_as_it_is() -> None:
    text = await printed(claimed(event_json=b'{"id":"e1","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
    assert text.startswith("event (deeply nested)  id e1")


async def test_a_terminal_that_knows_only_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert await TerminalSink(stream).send([claimed("Zoë…")], None) == [Sent(None)]
    assert rb"Zo\xeb\u2026" in raw.getvalue()


async def test_a_closed_terminal_keeps_the_event() -> None:
    stream = io.StringIO()
    stream.close()
    (outcome,) = await TerminalSink(stream).send([claimed()], None)
    assert isinstance(outcome, Retry)


async def test_it_forwards_while_a_dev_server_answers_prints_otherwise_and_says_which() -> None:
    stream, fake = io.StringIO(), FakeInngest()
    async with fake:  # to have a port that is free again below
        pass
    sink = DevSink(InngestSink(Destination(url=fake.url, event_key="dev")), TerminalSink(stream))
    assert await sink.send([claimed({"s": "first"})], None) == [Sent(None)]
    assert await sink.send([claimed({"s": "second"})], None) == [Sent(None)]
    said = stream.getvalue()
    assert said.count("No Inngest Dev Server answers") == 1
    assert (said.count("first"), said.count("second")) == (1, 1)

    async with FakeInngest(port=fake.port) as running:
        sink._believed_until = 0  # BELIEVE_SECONDS are over
        (outcome,) = await sink.send([claimed({"s": "third"})], "pr-17")
        assert outcome == Sent(running.accepted[0].inngest_id)
        assert running.accepted[0].environment == "pr-17"
    assert stream.getvalue().count("An Inngest Dev Server answers") == 1
    assert "third" not in stream.getvalue()

    (outcome,) = await sink.send(
        [claimed({"s": "fourth"})], None
    )  # it has just gone away: kept, and asked anew next time
    assert isinstance(outcome, Retry)
    assert await sink.send([claimed({"s": "fourth"})], None) == [Sent(None)]
    await sink.close()
    assert stream.getvalue().count("No Inngest Dev Server answers") == 2
    assert BELIEVE_SECONDS > 0
