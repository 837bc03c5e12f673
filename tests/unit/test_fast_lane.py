"""What the fast lane takes, it reads as aiohttp's parser does; everything unusual is left to that."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import compiled, plain
from relay.errors import Rejected
from relay.fast_lane import HELD_BYTES_MAX, SWEEP_SECONDS, TURN_MAX, FastConnection, Lane
from relay.models import Accepted, Request
from relay.plain import FIRST_LINE_BYTES_MAX, REQUEST_BYTES_MAX, UNFINISHED, Plain
from relay.receiver_http import accepted_bytes, respond, response_bytes
from tests.support.wire import Wire

HEAD_MAX = 16 * 1024
PLAIN = (
    b"POST /in/stripe?a=1&b=%20 HTTP/1.1\r\nHost: relay.example:8080\r\nContent-Type: application/json\r\n"
    b"X-Odd:\t padded \xff\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice: 2\r\nContent-Length: 5\r\n\r\n"
)


def read(data: bytes, headers_max: int = 100) -> Any:
    """What Python reads. Compiled code, where there is any, must read the same, and the same of what has no header
    twice, about which it need not ask.
    """
    for each in (data.replace(b"x-twice: 2\r\n", b""), data):
        found = plain.read_plain(each, headers_max, HEAD_MAX)
        assert compiled.read_plain(each, headers_max, HEAD_MAX) == found
    return found


async def as_aiohttp_reads(data: bytes) -> Plain:
    loop = asyncio.get_running_loop()
    limits: dict[str, Any] = {"max_line_size": HEAD_MAX, "max_field_size": HEAD_MAX}
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False, **limits)
    [(message, body), *_], _, tail = parser.feed_data(data)
    assert (message.method, message.version, message.upgrade, message.chunked) == ("POST", (1, 1), False, False)
    content = await body.read()
    path, _, query = message.path.partition("?")
    names = [name.lower() for name, _ in message.raw_headers]
    return Plain(
        path.removeprefix("/in/"),
        Request("POST", path, query, message.raw_headers, content),
        len(data) - len(tail),
        message.should_close,
        {name.lower(): value for name, value in message.raw_headers} if len(set(names)) == len(names) else None,
    )


async def test_a_plain_request_is_read_as_aiohttp_reads_it() -> None:
    found = read(PLAIN + b"{...}")
    assert found == await as_aiohttp_reads(PLAIN + b"{...}")
    assert found.source == "stripe"
    assert dict(found.request.headers)[b"X-Odd"] == b"padded \xff"


async def test_a_first_line_that_is_too_long_to_be_remembered_is_read_too() -> None:
    long = PLAIN.replace(b"a=1", b"a=" + b"1" * FIRST_LINE_BYTES_MAX) + b"{...}"
    assert read(long) == await as_aiohttp_reads(long)


def test_what_follows_is_the_next_request() -> None:
    found = read(PLAIN + b"{...}" + PLAIN)
    assert isinstance(found, Plain)
    assert (found.request.body, found.end) == (b"{...}", len(PLAIN) + 5)


def test_every_beginning_is_unfinished() -> None:
    whole = PLAIN + b"{...}"
    assert [read(whole[:size]) for size in range(1, len(whole))] == [UNFINISHED] * (len(whole) - 1)


UNUSUAL = {
    "another method": PLAIN.replace(b"POST", b"PUT"),
    "another path": PLAIN.replace(b"/in/stripe", b"/healthz"),
    "a path in code": PLAIN.replace(b"/in/stripe", b"/in/%73tripe"),
    "a path that goes on": PLAIN.replace(b"/in/stripe", b"/in/stripe/x"),
    "capitals": PLAIN.replace(b"/in/stripe", b"/in/Stripe"),
    "an empty query": PLAIN.replace(b"?a=1&b=%20", b"?"),
    "a whole URL": PLAIN.replace(b"/in/stripe", b"http://relay/in/stripe"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an empty line before it": b"\r\n" + PLAIN,
    "line feeds alone": PLAIN.replace(b"\r\n", b"\n"),
    "one line feed alone": PLAIN.replace(b"application/json\r\n", b"application/json\n"),
    "a folded line": PLAIN.replace(b"application/json", b"application/json\r\n  ; charset=utf-8"),
    "a control character": PLAIN.replace(b"application", b"appli\x01cation"),
    "a null": PLAIN.replace(b"application", b"appli\x00cation"),
    "a space before the colon": PLAIN.replace(b"Content-Type:", b"Content-Type :"),
    "a name that is none": PLAIN.replace(b"X-Odd", b"X(Odd)"),
    "a line without a colon": PLAIN.replace(b"X-Empty:", b"X-Empty"),
    "two lengths": PLAIN.replace(b"X-Twice: 1", b"Content-Length: 5"),
    "two lengths that differ": PLAIN.replace(b"X-Twice: 1", b"Content-Length: 6"),
    "a list of lengths": PLAIN.replace(b"Length: 5", b"Length: 5, 5"),
    "a signed length": PLAIN.replace(b"Length: 5", b"Length: +5"),
    "a length in hex": PLAIN.replace(b"Length: 5", b"Length: 0x5"),
    "no length": PLAIN.replace(b"Content-Length: 5\r\n", b""),
    "a length and chunks": PLAIN.replace(b"X-Odd", b"Transfer-Encoding: chunked\r\nX-Odd"),
    "chunks in disguise": PLAIN.replace(b"X-Odd", b"transfer-encoding:\tidentity\r\nX-Odd"),
    "an expectation": PLAIN.replace(b"X-Odd", b"Expect: 100-continue\r\nX-Odd"),
    "an upgrade": PLAIN.replace(b"X-Odd", b"Connection: upgrade\r\nUpgrade: websocket\r\nX-Odd"),
    "two wishes": PLAIN.replace(b"X-Odd", b"Connection: close\r\nConnection: keep-alive\r\nX-Odd"),
    "a blank at a line's end": PLAIN.replace(b"padded", b"padded \r\nX-Odd: "),
    "a tab in a value": PLAIN.replace(b"padded", b"pad\tded"),
    "a tab at a line's end": PLAIN.replace(b"X-Empty:", b"X-Empty:\t"),
    "a list of wishes": PLAIN.replace(b"X-Odd", b"Connection: close, te\r\nX-Odd"),
    "an empty length": PLAIN.replace(b"Length: 5", b"Length:"),
    "a long length": PLAIN.replace(b"Length: 5", b"Length: 0000000005"),
    "a first line that ends in half": PLAIN.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\rX"),
    "a deletion": PLAIN.replace(b"application", b"appli\x7fcation"),
    "an empty host": PLAIN.replace(b"Host: relay.example:8080", b"Host:"),
    "no host": PLAIN.replace(b"Host:", b"X-Host:"),
    "two types": PLAIN.replace(b"X-Odd", b"Content-type: text/plain\r\nX-Odd"),
    "two agents": PLAIN.replace(b"X-Odd", b"User-Agent: a\r\nUser-Agent: a\r\nX-Odd"),
    "two hosts": PLAIN.replace(b"X-Odd", b"Host: other\r\nX-Odd"),
    "a long body": PLAIN.replace(b"Length: 5", b"Length: %d" % REQUEST_BYTES_MAX),
    "a long head": PLAIN.replace(b"padded", b"x" * HEAD_MAX),
    "a head without end": b"POST /in/x HTTP/1.1\r\n" + b"A: b\r\n" * HEAD_MAX,
    "a line without end": b"POST /in/x?" + b"a" * HEAD_MAX,
}


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=list(UNUSUAL))
def test_the_unusual_is_aiohttps(data: bytes) -> None:
    assert read(data + b"{...}") is None


def test_too_many_headers_are_aiohttps() -> None:
    assert read(PLAIN + b"{...}", headers_max=6) is None
    assert isinstance(read(PLAIN + b"{...}", headers_max=7), Plain)
    assert read(PLAIN + b"{...}", headers_max=5) is None


@pytest.mark.parametrize(("wish", "last"), [(b"Keep-Alive", False), (b"close", True), (b"\t Close", True)])
def test_whether_it_is_the_last_is_nothing_unusual(wish: bytes, last: bool) -> None:
    found = read(PLAIN.replace(b"X-Odd", b"connection: " + wish + b"\r\nX-Odd") + b"{...}")
    assert isinstance(found, Plain)
    assert found.last is last


PIECES = [
    *(b"POST /in/a", b" HTTP/1.1\r\n", b"Host: h\r\n", b"Content-Length: 2\r\n", b"\r\n", b"{}", b"X: y\r\n"),
    *(b"\n", b"\r", b" ", b"\t", b":", b"?q=1", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\x00"),
    *(
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"content-length:2\r\n",
        b"Content-Type: a\r\n",
        b"\x80",
        b"0\r\n\r\n",
        b"A:\r\n",
    ),
]
LIKELY = b"POST /in/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, len(LIKELY)), st.integers(0, 3))
def test_whatever_is_taken_is_read_the_same(pieces: list[bytes], at: int, cut: int) -> None:
    for data in (b"".join(pieces), LIKELY[:at] + b"".join(pieces) + LIKELY[at + cut :]):
        found = read(data)
        if isinstance(found, Plain):
            assert found == asyncio.run(as_aiohttp_reads(data[: found.end]))


def test_no_bytes_take_long() -> None:
    for filler in (b" ", b"\t", b":", b"a", b"a:", b"a: \r\n", b"\r\n", b"\r", b"%", b"?"):
        data = b"POST /in/x HTTP/1.1\r\n" + filler * (HEAD_MAX // len(filler))
        began = time.process_time()
        for _ in range(20):
            read(data[:HEAD_MAX])
        assert time.process_time() - began < 1.0, filler


ANSWERS: list[Any] = [
    {"status": 204},
    {"status": 200, "headers": {"Content-Type": "text/plain"}, "body": b"Hello"},
    {"status": 401},
    Accepted("01JABC", duplicate=False),
    Accepted("01JABC", duplicate=True),
    Rejected("signature_mismatch", "no \u00fcmlaut is lost"),
    Rejected("unknown_source", "x"),
    Rejected("store_unavailable", "x"),
]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_answers_are_written_as_aiohttp_writes_them(answer: Any) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        response = made(answer)
        if request.path == "/last":
            response.force_close()
        return response

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        for path, last in (("/", False), ("/last", True)):
            reader, writer = await asyncio.open_connection(*runner.addresses[0])
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            sent = await reader.readuntil(b"\r\n\r\n")
            ours = response_bytes(made(answer), last=last)
            head, _, body = ours.partition(b"\r\n\r\n")
            assert without_date(sent) == without_date(head + b"\r\n\r\n")
            assert await reader.readexactly(len(body)) == body
            if isinstance(answer, Accepted):
                assert without_date(accepted_bytes(answer, int(time.time()), last=last)) == without_date(ours)
            writer.close()
            await writer.wait_closed()
    finally:
        await runner.cleanup()


def made(answer: Any) -> web.Response:
    return web.Response(**answer) if isinstance(answer, dict) else respond(answer)


def without_date(answer: bytes) -> bytes:
    return b"\r\n".join(line for line in answer.split(b"\r\n") if not line.startswith(b"Date: "))


class Slow:
    """Stands where aiohttp's protocol would."""

    def __init__(self) -> None:
        self.did: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport, /) -> None:
        self.did.append("made")

    def data_received(self, data: bytes, /) -> None:
        self.did.append(data)

    def eof_received(self) -> bool:
        self.did.append("eof")
        return True

    def pause_writing(self) -> None:
        self.did.append("pause")

    def force_close(self) -> None:
        self.did.append("close")


class Desk:
    """A lane whose requests wait here until a test answers them."""

    def __init__(self, *, full: bool = False, idle_seconds: float = 60.0) -> None:
        self._taken: list[tuple[Plain, FastConnection]] = []
        self.slow = Slow()
        self.lane = Lane(lambda arrived, _: self._taken.extend(arrived), HEAD_MAX, 100, idle_seconds)
        self.lane.slow, self.lane.is_full = lambda: self.slow, lambda: full

    @property
    def taken(self) -> list[tuple[Plain, FastConnection]]:
        """What was taken with this turn of the event loop, which need not end first."""
        self.lane.end_turn()
        return self._taken

    def connect(self) -> tuple[FastConnection, Wire]:
        wire, connection = Wire(), self.lane()
        connection.connection_made(wire)
        return connection, wire


WHOLE = PLAIN + b"{...}"


async def test_what_is_pipelined_waits_its_turn() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE + WHOLE + WHOLE[:30])
    connection.data_received(WHOLE[30:])
    for number in range(3):
        assert len(desk.taken) == number + 1
        connection.answer(b"%d" % number)
        await asyncio.sleep(0)
    assert wire.did == [b"0", b"1", b"2"]


async def test_a_sender_that_goes_on_while_it_is_answered_is_not_read_for_ever() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE)
    for _ in range(HELD_BYTES_MAX // len(WHOLE) + 2):
        connection.data_received(WHOLE)
    assert "pause" in wire.did
    connection.answer(b"1")
    await asyncio.sleep(0)
    assert "resume" in wire.did
    assert len(desk.taken) == 2


async def test_who_does_not_read_answers_is_given_no_more_of_them() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE + WHOLE)
    connection.pause_writing()
    connection.answer(b"1")
    await asyncio.sleep(0)
    assert len(desk.taken) == 1
    connection.resume_writing()
    await asyncio.sleep(0)
    assert len(desk.taken) == 2
    assert wire.did == [b"1"]


async def test_the_last_answer_ends_the_connection_whatever_was_pipelined() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE + WHOLE)
    connection.answer(b"1", last=True)
    await asyncio.sleep(0)
    assert wire.did == [b"1", "close"]
    assert len(desk.taken) == 1


async def test_a_sender_that_ended_sending_gets_the_answers_to_what_came_whole() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE + WHOLE)
    assert connection.eof_received()
    connection.answer(b"1")
    await asyncio.sleep(0)
    connection.answer(b"2")
    assert wire.did == [b"1", b"2", "close"]


async def test_a_request_cut_short_is_not_waited_for() -> None:
    connection, wire = Desk().connect()
    connection.data_received(WHOLE[:-1])
    assert not connection.eof_received()
    pipelined, wire = Desk().connect()
    pipelined.data_received(WHOLE + WHOLE[:-1])
    assert pipelined.eof_received()
    pipelined.answer(b"1")
    await asyncio.sleep(0)
    assert wire.did == [b"1", "close"]


async def test_an_answer_for_a_sender_that_has_gone_is_dropped() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE)
    connection.connection_lost(None)
    connection.answer(b"1")
    assert wire.did == []
    assert not desk.lane.connections


async def test_the_unusual_leaves_with_every_byte_of_it() -> None:
    desk = Desk()
    connection, wire = desk.connect()
    connection.data_received(WHOLE + b"GET / HTTP/1.1\r\n")
    assert connection.eof_received()
    connection.pause_writing()
    connection.answer(b"1")
    connection.resume_writing()
    await asyncio.sleep(0)
    assert wire.protocol is desk.slow
    assert desk.slow.did == ["made", b"GET / HTTP/1.1\r\n", "eof"]
    assert not desk.lane.connections


async def test_what_is_not_whole_in_time_leaves() -> None:
    desk = Desk()
    connection, _ = desk.connect()
    connection.data_received(WHOLE[:-1])
    while not desk.slow.did:
        await asyncio.sleep(0.01)
    assert desk.slow.did == ["made", WHOLE[:-1]]


async def test_one_connection_too_many_is_refused_by_aiohttp() -> None:
    desk = Desk(full=True)
    _, wire = desk.connect()
    assert wire.protocol is desk.slow
    assert desk.slow.did == ["made"]


async def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    desk = Desk(idle_seconds=2 * SWEEP_SECONDS)
    (busy, busy_wire), (_, idle_wire) = desk.connect(), desk.connect()
    busy.data_received(WHOLE)
    for sweep in range(3):
        assert idle_wire.did == [], sweep
        desk.lane.sweep()
    assert (idle_wire.did, busy_wire.did) == (["close"], [])


async def test_a_stop_closes_the_idle_and_waits_for_the_busy() -> None:
    desk = Desk()
    (busy, busy_wire), (idle, idle_wire), (hung, hung_wire) = desk.connect(), desk.connect(), desk.connect()
    busy.data_received(WHOLE)
    hung.data_received(WHOLE)
    closing = asyncio.create_task(desk.lane.close(0.2))
    await asyncio.sleep(0)
    assert (idle_wire.did, busy_wire.did) == (["close"], [])
    idle.connection_lost(None)
    busy.answer(b"1", last=True)
    busy.connection_lost(None)
    await closing
    assert busy_wire.did == [b"1", "close"]
    assert hung_wire.did == ["abort"]


async def test_what_one_turn_brings_is_taken_together_up_to_a_bound() -> None:
    taken: list[list[FastConnection]] = []
    lane = Lane(lambda requests, began: taken.append([connection for _, connection in requests]), HEAD_MAX, 100, 60.0)
    lane.is_full = lambda: False
    connections = [lane() for _ in range(2 * TURN_MAX + 7)]
    for connection in connections:
        connection.connection_made(Wire())
        connection.data_received(PLAIN + b"12345")
    await asyncio.sleep(0)
    assert [len(turn) for turn in taken] == [TURN_MAX, TURN_MAX, 7]
    assert [each for turn in taken for each in turn] == connections, "in the order in which they came"
    await lane.close(0)
