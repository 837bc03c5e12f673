"""Log lines: whatever a stranger sends stays one line, and cannot steer a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path

import pytest

from relay.models import Accepted
from relay.telemetry import Telemetry

HOSTILE = ("two\nlines", "clears\x1b[2J", "c1\x9b31m", "sep\u2028arated", "forged=field", "")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_strangers_text_stays_on_its_line_and_is_only_text(text: str, as_json: bool) -> None:
    stream = io.StringIO()
    Telemetry(stream, as_json=as_json).log("delivery.rejected", detail=text)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    if as_json:
        assert json.loads(line)["detail"] == text
    else:
        assert f"detail={json.dumps(text)}" in line


def test_plain_text_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    Telemetry(stream, as_json=False).log("delivery.accepted", source="gïthub", id="01M")
    assert stream.getvalue().endswith(" delivery.accepted source=gïthub id=01M\n")


def test_a_line_is_written_at_once_so_that_no_other_threads_line_gets_into_it() -> None:
    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    written: list[str] = []
    Telemetry(Stream()).log("store.lost", reason="x")
    assert [text.count("\n") for text in written] == [1]
    assert written[0].endswith("\n")


def test_a_line_is_json_whatever_stands_in_it() -> None:
    """Half of a character, other alphabets and huge numbers are escaped, so that any stream can take the line."""
    for odd in ("\ud800", "Zo\u00eb \u2603", 2**70, float("nan"), Path("x")):
        stream = io.StringIO()
        Telemetry(stream, as_json=True).log("thing.happened", odd=odd)
        line = stream.getvalue()
        assert line.isascii()
        assert json.loads(line)["event"] == "thing.happened"


@pytest.mark.parametrize(("duplicate", "code"), [(False, "accepted"), (True, "duplicate")])
def test_what_was_taken_is_logged_like_anything_else_and_counted(duplicate: bool, code: str) -> None:
    stream = io.StringIO()
    telemetry = Telemetry(stream, as_json=True)
    for seconds in (0.03125, 0.5):
        telemetry.took("github", [(Accepted("01M", duplicate), 7)], seconds)
    telemetry.log(f"delivery.{'duplicated' if duplicate else code}", source="github", id="01M", bytes=7, ms=500.0)
    first, second, usual = ({**json.loads(line), "at": ""} for line in stream.getvalue().splitlines())
    assert (list(second), second) == (list(usual), usual)
    assert first["ms"] == 31.2
    metrics = telemetry.exposition().decode().splitlines()
    assert f'relay_requests_total{{code="{code}",source="github"}} 2.0' in metrics
    assert 'relay_body_bytes_total{source="github"} 14.0' in metrics
    assert 'relay_request_seconds_bucket{le="0.025",source="github"} 0.0' in metrics
    assert 'relay_request_seconds_bucket{le="0.05",source="github"} 1.0' in metrics
    assert 'relay_request_seconds_sum{source="github"} 0.53125' in metrics


async def test_the_lines_of_a_turn_are_written_together_and_those_of_other_threads_at_once() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(stream, as_json=True)
    telemetry.attach(asyncio.get_running_loop())
    telemetry.log("first.happened")
    telemetry.log("second.happened")
    assert stream.getvalue() == ""
    await asyncio.to_thread(telemetry.log, "thread.happened")
    await asyncio.sleep(0)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert sorted(events) == ["first.happened", "second.happened", "thread.happened"]
    telemetry.log("third.happened")
    telemetry.attach(None)  # nothing is left behind
    telemetry.log("fourth.happened")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()][3:] == [
        "third.happened",
        "fourth.happened",
    ]


ENDS = [("01M1", "processed", 1, 0), ("01M2", "filtered", 0, 0), ("01M3", "processed", 2, 3)]


@pytest.mark.parametrize("as_json", [True, False])
def test_finished_deliveries_have_the_lines_that_any_log_call_makes(as_json: bool) -> None:
    """They are put together by hand, as thousands a second are written."""
    quick, plain = io.StringIO(), io.StringIO()
    Telemetry(quick, as_json=as_json).finished("github", ENDS)
    telemetry = Telemetry(plain, as_json=as_json)
    for delivery_id, state, stored, duplicates in ENDS:
        telemetry.log(
            f"delivery.{state}", id=delivery_id, source="github", events=stored, duplicates=duplicates or None
        )
    assert [timeless(line) for line in quick.getvalue().splitlines()] == [
        timeless(line) for line in plain.getvalue().splitlines()
    ]
    Telemetry(quick, as_json=as_json).finished("github", [])
    assert quick.getvalue().count("\n") == len(ENDS)


def timeless(line: str) -> str:
    return re.sub(r"[0-9:T-]{8,}[.][0-9]{3}Z?", "", line, count=1)


def test_calls_are_counted_for_many_at_once() -> None:
    telemetry = Telemetry()
    telemetry.calls.count("github", 0.003, 5)
    telemetry.calls.count("github", 0.005, 1)
    telemetry.calls.count("github", 99.0, 1)
    sample = telemetry.registry.get_sample_value
    found = [
        sample("relay_transform_seconds_bucket", {"source": "github", "le": le}) for le in ("0.0025", "0.005", "+Inf")
    ]
    assert found == [0, 6, 7]
    assert sample("relay_transform_seconds_count", {"source": "github"}) == 7
    assert sample("relay_transform_seconds_sum", {"source": "github"}) == pytest.approx(99.02)
