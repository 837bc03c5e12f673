"""What transform returned, judged by Inngest's rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import TransformError
from relay.models import Event
from relay.transform import TransformLimits, events_from
from relay.transform_events import InvalidEventError, event_from, mend_surrogates, usual_event
from tests.support.sandboxes import LIMITS, RECEIVED_MS, delivery, script


def judge(result: str | None, *, limits: TransformLimits = LIMITS, **given: Any) -> list[Event] | TransformError:
    text = None if result is None else result.encode()
    return events_from(
        text, delivery(**given), script("", "t.js"), destination="default", environment="pr-1", limits=limits
    )


def events(result: str | None, **given: Any) -> list[Event]:
    found = judge(result, **given)
    assert isinstance(found, list), found
    return found


def sent(event: str, **given: Any) -> dict[str, Any]:
    """The one event as Inngest will read it."""
    (found,) = events(event, **given)
    parsed: dict[str, Any] = json.loads(found.json)
    assert (parsed["id"], parsed["name"], parsed["ts"]) == (found.id, found.name, found.ts)
    assert (found.destination, found.environment) == ("default", "pr-1")
    return parsed


def refusal(result: str, **given: Any) -> str:
    found = judge(result, **given)
    assert isinstance(found, TransformError), found
    assert found.code == "invalid_event"
    assert found.message.startswith("t.js: ")
    return found.message


@pytest.mark.parametrize("result", [None, "null", "[]"])
def test_nothing_is_filtered(result: str | None) -> None:
    assert events(result) == []


def test_one_object_or_an_array() -> None:
    assert [event.name for event in events('{"name":"a"}')] == ["a"]
    assert [event.name for event in events('[{"name":"a"},{"name":"b"}]')] == ["a", "b"]


def test_data_goes_through_untouched() -> None:
    data = '{"n":12345678901234567890,"f":1.50,"s":"\\u00e9\\/é😀","nested":{"a":[null,true,{}]}}'
    (event,) = events(f'{{"name":"a","data":{data},"id":"1","ts":{RECEIVED_MS}}}')
    assert event.json == f'{{"id":"1","name":"a","data":{data},"ts":{RECEIVED_MS}}}'.encode()


@pytest.mark.parametrize("given", ['{"name":"a"}', '{"name":"a","data":null}', '{"name":"a","data":{}}'])
def test_no_data_is_an_empty_object(given: str) -> None:
    assert sent(given)["data"] == {}


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (r"\ud800", "\ufffd"),
        (r"a\udc00b", "a\ufffdb"),
        (r"\uDBFF\ud800", "\ufffd\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud800\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud800", "\\ud800"),
        (r"\\\ud800", "\\\ufffd"),
        (r"\\\\\ud800\ud800\"", '\\\\\ufffd\ufffd"'),
        (r"\n\ud7ff", "\n\ud7ff"),
    ],
)
def test_half_surrogates_become_the_replacement_character(text: str, mended: str) -> None:
    found = sent(f'{{"name":"n{text}","data":{{"{text}":"{text}"}},"id":"{text}"}}')
    assert found["data"] == {mended: mended}
    assert (found["name"], found["id"]) == (f"n{mended}", mended)


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        ("1700000000000", 1_700_000_000_000),
        ("1700000000000.0", 1_700_000_000_000),
        ("1.7e12", 1_700_000_000_000),
        ("1700000000123.6", 1_700_000_000_124),
        ("0", RECEIVED_MS),
        ("0.2", RECEIVED_MS),
        ("null", RECEIVED_MS),
        ("315532800000", 315_532_800_000),
        ("4102444800000", 4_102_444_800_000),
    ],
)
def test_ts_is_integer_milliseconds(ts: str, expected: int) -> None:
    found = sent(f'{{"name":"a","ts":{ts}}}')["ts"]
    assert found == expected
    assert isinstance(found, int)


def test_no_ts_is_the_time_of_receipt() -> None:
    assert sent('{"name":"a"}')["ts"] == RECEIVED_MS


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ('{"name":"a","ts":1700000000}', "multiply by 1000"),
        ('{"name":"a","ts":1700000000.5}', "multiply by 1000"),
        ('{"name":"a","ts":1700000000000000}', "in microseconds"),
        ('{"name":"a","ts":1700000000000000000}', "in nanoseconds"),
        ('{"name":"a","ts":315532799999}', "before 1980"),
        ('{"name":"a","ts":-1}', "before 1980"),
        ('{"name":"a","ts":4102444800001}', "after 2100"),
        ('{"name":"a","ts":1e300}', "after 2100"),
        ('{"name":"a","ts":1e400}', "cannot be read: Number out of range"),
        (f'{{"name":"a","id":{"1" * 5000}}}', "cannot be read: Integer value out of range"),
        ('{"name":"a","ts":"2024-01-01T00:00:00.000Z"}', ".getTime()"),
        ('{"name":"a","ts":"1700000000000"}', "ts must be a number"),
        ('{"name":"a","ts":true}', "it is true"),
        ('{"name":"a","ts":{}}', "it is an object"),
        ('{"data":{}}', "name must be a string that is not empty; it is missing"),
        ('{"name":"","data":{}}', "an empty string"),
        ('{"name":5}', "the number 5"),
        ('{"name":"inngest/x"}', "begins with inngest/"),
        ('{"name":"InnGest/x"}', "begins with inngest/"),
        (f'{{"name":"{"x" * 257}"}}', "257 characters"),
        ('{"name":"a","data":[]}', "data must be an object; it is an array"),
        ('{"name":"a","data":"text"}', "data must be an object; it is a string"),
        ('{"name":"a","data":7}', "the number 7"),
        ('{"name":"a","id":7}', "String(…)"),
        ('{"name":"a","id":{}}', "id must be a string"),
        ('{"name":"a","v":1}', "v must be a string"),
        ('{"name":"a","user":"u"}', "user must be an object"),
        ('[{"name":"a"},7]', "event 2: is the number 7, not an object"),
        ("[null]", "event 1: is null, not an object"),
        ("[{}]", "event 1: is {}, as a promise in a list is: name is missing; for promises return Promise.all(list)"),
        ('[{"name":"a"},{"name":"b","ts":1}]', "event 2: ts 1 "),
        ('"text"', "transform returned a string"),
        ("false", "transform returned false"),
        ("17", "transform returned the number 17"),
    ],
)
def test_broken_rules_are_named(event: str, sentence: str) -> None:
    assert sentence in refusal(event)


def test_names_at_the_edge_are_taken() -> None:
    for name in ("x" * 256, "inngest.foo", "a b", "é😀"):
        assert sent(json.dumps({"name": name}))["name"] == name


def test_ids_are_kept_or_made_stable() -> None:
    assert sent('{"name":"a","id":"mine"}')["id"] == "mine"
    for none in ('{"name":"a"}', '{"name":"a","id":""}', '{"name":"a","id":null}'):
        assert sent(none)["id"] == "acme:evt_1:0"
    assert [event.id for event in events('[{"name":"a"},{"name":"b"}]')] == ["acme:evt_1:0", "acme:evt_1:1"]
    assert sent('{"name":"a"}', key=None)["id"] == "acme:01JDELIVERY:0"


def test_a_replay_with_new_ids_says_so() -> None:
    assert sent('{"name":"a"}', generation=2)["id"] == "acme:evt_1:0:again-2"
    assert sent('{"name":"a","id":"mine"}', generation=1)["id"] == "mine:again-1"


def test_unknown_fields_are_dropped_and_known_ones_kept() -> None:
    found = sent('{"name":"a","v":"2024","user":{"id":1},"meta":{"x":1},"extra":1,"Name":"b"}')
    assert found == {"id": "acme:evt_1:0", "name": "a", "data": {}, "ts": RECEIVED_MS, "v": "2024", "user": {"id": 1}}
    assert "v" not in sent('{"name":"a","v":"","user":null}')


def test_an_event_that_is_too_large_is_refused_with_its_size() -> None:
    fits = json.dumps({"name": "a", "data": {"x": "é" * 900}}, ensure_ascii=False)
    assert len(events(fits)[0].json) < 2000
    assert "is 2" in refusal(json.dumps({"name": "a", "data": {"x": "é" * 1000}}, ensure_ascii=False))


def test_too_many_events_are_refused() -> None:
    assert len(events("[" + ",".join(['{"name":"a"}'] * 5) + "]")) == 5
    found = judge("[" + ",".join(['{"name":"a"}'] * 6) + "]")
    assert isinstance(found, TransformError)
    assert found.code == "too_many_events"


def test_deep_data_is_a_refusal_and_not_a_surprise() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    found = judge(f'{{"name":"a","data":{{"x":{deep}}}}}', limits=TransformLimits(1, 10**6))
    assert isinstance(found, list) or found.code == "invalid_event"


VALUES = {
    "name": [
        '"a/b"',
        '""',
        '"inngest/x"',
        '"Inngest/x"',
        '"ingest/x"',
        "null",
        "5",
        f'"{"x" * 256}"',
        f'"{"x" * 257}"',
        '"\\u00e9"',
    ],
    "id": ['"i"', '""', "null", "7", "1e400"],
    "ts": [
        "1700000000000",
        "1700000000000.5",
        "0",
        "null",
        '"x"',
        "true",
        "1700000000",
        "-1",
        "1e400",
        "4102444800001",
    ],
    "data": ["{}", '{"a":{"b":[1]}}', "null", "[1]", '"x"', "1", '{"half":"\\ud800","n":12345678901234567890}'],
    "v": ['"1"', '""', "null", "1"],
    "user": ['{"external_id":"u"}', "null", "[]"],
    "more": ["1", "{}"],
}


@given(st.fixed_dictionaries({}, optional={key: st.sampled_from(texts) for key, texts in VALUES.items()}))
def test_an_event_read_in_one_step_is_the_one_read_field_by_field(fields: dict[str, str]) -> None:
    text = mend_surrogates(("{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}").encode())
    at_once = usual_event(text, 2, delivery(), "default", None)
    try:
        careful = event_from(text, 2, delivery(), "default", None)
    except InvalidEventError:
        assert at_once is None
    else:
        assert at_once in (None, careful)


def test_most_events_are_read_in_one_step() -> None:
    for text in (b'{"name":"a","data":{}}', b'{"ts":1700000000000,"id":"1","name":"a","data":{"x":1},"more":2}'):
        assert usual_event(text, 0, delivery(), "default", None) is not None
