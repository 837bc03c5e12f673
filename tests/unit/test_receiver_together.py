"""The fast lane's requests of one turn of the event loop: stored and answered together, each for itself."""

from __future__ import annotations

import asyncio
import base64
import hmac
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay import receiver
from relay.compiled import read_plain
from relay.config import Receiver as ReceiverSettings
from relay.fast_lane import TURN_MAX, FastConnection
from relay.plain import Plain
from relay.presets import load_preset
from relay.receiver import Receiver
from relay.verify import sign
from tests.support.desk import Desk, open_desk
from tests.support.requests import request_to
from tests.support.wire import Wire

SOURCES: dict[str, dict[str, Any]] = {
    "github": {"provider": "github", "secrets": ["s"]},
    "other": {"provider": "github", "secrets": ["s"]},
    "xero": {"provider": "xero", "secrets": ["s"]},
    "twilio": {"provider": "twilio", "secrets": ["s"]},
    "asleep": {"provider": "github", "secrets": ["s"], "enabled": False},
}


def github(key: str, source: str = "github") -> bytes:
    signature = hmac.digest(b"s", b"{}", "sha256").hex()
    return (
        f"POST /in/{source} HTTP/1.1\r\nHost: x\r\nX-GitHub-Delivery: {key}\r\nContent-Length: 2\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\n\r\n{{}}"
    ).encode()


def xero() -> bytes:
    signature = base64.b64encode(hmac.digest(b"s", b"{}", "sha256"))
    return b"POST /in/xero HTTP/1.1\r\nHost: x\r\nx-xero-signature: %b\r\nContent-Length: 2\r\n\r\n{}" % signature


def twilio(target: str) -> bytes:
    """Twilio signs the URL and the fields of the form."""
    url, form = f"http://x:80{target}", {"Content-Type": "application/x-www-form-urlencoded"}
    request = sign(
        load_preset("twilio").scheme, "s", request_to(url, form, b"a=1"), url=url, now_s=0.0, delivery_id="t1"
    )
    lines = [b"POST %b HTTP/1.1" % target.encode(), b"hOST: x:80", b"Content-Length: 3"]
    lines += [b"%b: %b" % header for header in request.headers]
    return b"\r\n".join([*lines, b"", request.body])


class Senders:
    """A receiver with a real store; each request comes on a connection of its own, all of them in one turn."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.store = desk, desk.store
        self.limit(ReceiverSettings())

    def limit(self, settings: ReceiverSettings) -> None:
        """From here on another receiver takes what is sent, with these settings."""
        desk = self.desk
        self.receiver = Receiver(desk.store, desk.sources, desk.judge, settings, desk.telemetry)
        self.receiver.lane.is_full = lambda: False

    def connect(self) -> tuple[FastConnection, Wire]:
        wire, connection = Wire(), self.receiver.lane()
        connection.connection_made(wire)
        return connection, wire

    def send(self, *requests: bytes) -> list[Wire]:
        wires = []
        for request in requests:
            connection, wire = self.connect()
            connection.data_received(request)
            wires.append(wire)
        return wires

    async def answered(self) -> None:
        async with asyncio.timeout(10):
            while self.receiver.lane.arrived or self.receiver.requests_held:
                await asyncio.sleep(0)
        assert self.receiver.bodies_bytes_held == 0

    def lines(self) -> list[dict[str, Any]]:
        assert isinstance(self.desk.telemetry.stream, io.StringIO)
        return [json.loads(line) for line in self.desk.telemetry.stream.getvalue().splitlines()]

    def counted(self, source: str, code: str) -> float:
        labels = {"source": source, "code": code}
        return self.desk.telemetry.registry.get_sample_value("relay_requests_total", labels) or 0


@pytest.fixture
async def senders(tmp_path: Path) -> AsyncIterator[Senders]:
    async with open_desk(tmp_path, SOURCES) as desk:
        yield Senders(desk)


def parsed(wire: Wire) -> tuple[int, Any]:
    (answer,) = wire.did
    assert isinstance(answer, bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    return int(head.split()[1]), json.loads(body) if body else None


async def test_they_are_committed_together_and_each_has_its_own_answer(senders: Senders) -> None:
    before, count = senders.store.commits, TURN_MAX + 10
    wires = senders.send(*(github(f"d{n}", "other" if n % 2 else "github") for n in range(count)), github("d0"))
    assert all(wire.did == [] for wire in wires), "nothing is answered before the COMMIT"
    await senders.answered()
    assert senders.store.commits == before + 1
    answers = [parsed(wire) for wire in wires]
    assert {status for status, _ in answers} == {200}
    assert answers[-1][1] == {"id": answers[0][1]["id"], "status": "duplicate"}
    kept = {each.id: (each.key, each.source) for each in await senders.store.list_deliveries(limit=1000)}
    told = [answer["id"] for _, answer in answers[:-1]]
    assert [kept[each] for each in told] == [(f"d{n}", "other" if n % 2 else "github") for n in range(count)]
    codes = ("github", "accepted"), ("github", "duplicate"), ("other", "accepted"), ("other", "duplicate")
    assert [senders.counted(*each) for each in codes] == [count / 2, 1, count / 2, 0]
    logged = Counter((line["event"], line["id"], line["source"]) for line in senders.lines())
    assert logged == {
        **{("delivery.accepted", each, kept[each][1]): 1 for each in told},
        ("delivery.duplicated", told[0], "github"): 1,
    }


async def test_the_first_within_the_limit_are_taken_and_the_others_told_to_come_back(senders: Senders) -> None:
    senders.limit(ReceiverSettings(requests_max=3))
    wires = senders.send(*(github(f"d{n}") for n in range(5)))
    await senders.answered()
    assert [parsed(wire)[0] for wire in wires] == [200, 200, 200, 503, 503]
    assert (senders.counted("github", "accepted"), senders.counted("github", "overloaded")) == (3, 2)
    (wire,) = senders.send(github("d9"))
    await senders.answered()
    assert parsed(wire)[0] == 200


async def test_where_more_are_held_already_none_is_taken(senders: Senders) -> None:
    senders.limit(ReceiverSettings(requests_max=1))
    senders.receiver.requests_held = 5
    wires = senders.send(*(github(f"d{n}") for n in range(3)))
    async with asyncio.timeout(10):
        while not all(wire.did for wire in wires):
            await asyncio.sleep(0)
    assert [parsed(wire)[0] for wire in wires] == [503] * 3
    assert senders.receiver.requests_held == 5


async def test_a_body_over_the_limit_is_refused_and_the_others_are_taken(senders: Senders) -> None:
    senders.limit(ReceiverSettings(body_bytes_max=1))
    wires = senders.send(github("d1"), github("d2"))
    await senders.answered()
    assert [wire.did[0][9:12] for wire in wires] == [b"413"] * 2  # type: ignore[index]  # bytes, as parsed


@pytest.mark.parametrize("target", ["/in/twilio", "/in/twilio?a=%20&b"])
async def test_the_url_that_is_signed_is_the_one_that_was_asked_for(senders: Senders, target: str) -> None:
    plain, desk = read_plain(twilio(target), 100, 16 * 1024), senders.desk
    assert isinstance(plain, Plain)
    assert desk.judge.judge_usual(desk.sources["twilio"], plain, "01M", 0) is not None
    (wire,) = senders.send(twilio(target))
    await senders.answered()
    assert parsed(wire)[0] == 200


async def test_what_cannot_be_stored_is_told_to_each(senders: Senders) -> None:
    await senders.store.close()
    wires = senders.send(*(github(f"d{n}") for n in range(3)))
    await senders.answered()
    assert [parsed(wire)[0] for wire in wires] == [503] * 3
    assert all(b"Retry-After: 5" in wire.did[0] for wire in wires)  # type: ignore[operator]  # bytes, as parsed
    assert senders.counted("github", "store_unavailable") == 3
    assert [line["code"] for line in senders.lines()] == ["store_unavailable"] * 3


async def test_a_surprise_with_one_keeps_no_other_from_its_answer(senders: Senders) -> None:
    class Broken(Wire):
        def write(self, data: Any) -> None:
            raise RuntimeError("cannot write")

    first, last = senders.send(github("d1"))[0], Broken()
    broken = senders.receiver.lane()
    broken.connection_made(last)
    broken.data_received(github("d2"))
    (other,) = senders.send(github("d3"))
    await senders.answered()
    assert [parsed(wire)[0] for wire in (first, other)] == [200, 200]
    assert last.did == ["abort"]
    assert [line["stage"] for line in senders.lines() if line["event"] == "surprise.met"] == ["receiver"]
    assert senders.counted("github", "accepted") == 3


async def test_who_has_gone_is_counted_and_the_others_are_answered(senders: Senders) -> None:
    gone, wire = senders.connect()
    gone.data_received(github("d1"))
    (stays,) = senders.send(github("d2"))
    gone.connection_lost(None)
    await senders.answered()
    assert (wire.did, parsed(stays)[0]) == ([], 200)
    assert len(await senders.store.list_deliveries()) == 2


async def test_a_source_with_an_answer_of_its_own_gives_that(senders: Senders) -> None:
    wires = senders.send(github("d1"), xero(), github("d2"))
    await senders.answered()
    assert [parsed(wire)[1] is None for wire in wires] == [False, True, False]
    assert (senders.counted("xero", "accepted"), senders.counted("github", "accepted")) == (1, 2)


async def test_a_stop_makes_each_answer_the_last_of_its_connection(senders: Senders) -> None:
    wires = senders.send(github("d1"), github("d2"))
    async with asyncio.timeout(10):
        await senders.receiver.drain(10)
    for wire in wires:
        answer, ended = wire.did
        assert isinstance(answer, bytes)
        assert b"Connection: close" in answer
        assert ended == "close"
    assert senders.receiver.requests_held == senders.receiver.bodies_bytes_held == 0


async def test_a_disabled_source_takes_nothing(senders: Senders) -> None:
    wires = senders.send(github("d1", "asleep"), github("d2"))
    await senders.answered()
    assert [parsed(wire)[0] for wire in wires] == [404, 200]
    assert parsed(wires[0])[1]["error"]["code"] == "source_disabled"
    assert [each.key for each in await senders.store.list_deliveries()] == ["d2"]


async def test_more_bytes_than_may_be_held_are_refused(senders: Senders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "BODIES_BYTES_MAX", 3)
    first, *_ = senders.send(*(github(f"d{n}") for n in range(3)))
    await senders.answered()
    status, answer = parsed(first)
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    (later,) = senders.send(github("d4"))
    await senders.answered()
    assert parsed(later)[0] == 200
