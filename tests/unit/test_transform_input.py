"""What a script is called with: names, values and forms as Inngest hands them over."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import TransformError
from relay.forms import FIELDS_MAX
from relay.models import Delivery, RawHeaders, Request
from relay.sandbox import Call
from relay.transform import call_for
from relay.transform_input import ENCODE, canonical_name, header_values, plain_headers
from tests.support.sandboxes import delivery, sandbox, script

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


def made(given: Delivery) -> Call:
    found = call_for(given, 1 << 20)
    assert isinstance(found, Call), found
    return found


def evt(body: bytes, headers: dict[str, str]) -> Any:
    found = made(delivery(body, headers)).evt_json
    return None if found is None else json.loads(found)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (b"x-github-event", "X-Github-Event"),
        (b"X-GITHUB-DELIVERY", "X-Github-Delivery"),
        (b"content-type", "Content-Type"),
        (b"ETag", "Etag"),
        (b"WWW-Authenticate", "Www-Authenticate"),
        (b"x-b3-traceID", "X-B3-Traceid"),
        (b"x--double", "X--Double"),
        (b"1st-x", "1st-X"),
        (b"x_under_Score", "X_under_score"),
        (b"has space", "has space"),
        (b"x-\xff", "x-\ufffd"),
        (b"x(y)", "x(y)"),
    ],
)
def test_header_names_are_gos(name: bytes, canonical: str) -> None:
    assert canonical_name(name) == canonical


def test_headers_are_joined_and_bytes_replaced() -> None:
    raw = ((b"x-a", b"1"), (b"X-A", b"2"), (b"x-bad", b"\xff"), (b"__proto__", b"p"))
    request = Request("POST", "/in/acme", "", raw, b"{}")
    call = made(Delivery("d", "acme", None, 0, request))
    assert json.loads(call.headers_json) == {"X-A": "1, 2", "X-Bad": "\ufffd", "__proto__": "p"}


NAMES = [b"Host", b"x-a", b"X-A", b"x%b", b"has space", b"x-\xff", b'q"', b"Content-Type"]
HEADER_VALUES = [b"", b"plain", b'a "quote"', b"back\\slash", b"tab\there", b"\xc3\xa9", b"\xff", b"%b %s %%", b"\x7f"]
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(HEADER_VALUES) | st.binary(max_size=5))


@given(st.lists(PAIRS, max_size=6).map(tuple))
def test_headers_put_together_are_those_that_are_encoded(headers: RawHeaders) -> None:
    assert plain_headers(headers) in (None, ENCODE(header_values(headers)))


def test_most_headers_are_put_together() -> None:
    usual = ((b"host", b"relay.example"), (b"X-100%", b"100%"), (b"content-type", b"application/json; charset=utf-8"))
    assert plain_headers(usual) == ENCODE(header_values(usual))
    for odd in ((b"Content-Encoding", b"gzip"), (b"Host", b"again")):
        assert plain_headers((*usual, odd)) is None
    assert plain_headers(((b"Content-Type", b"multipart/Form-data"),)) is None
    assert plain_headers(()) is None


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", None),
        ("&", {}),
        ("a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        ("a=&b", {"a": [""], "b": [""]}),
        ("a=x+y%20z%2B", {"a": ["x y z+"]}),
        ("a=%ff&__proto__=1", {"a": ["\ufffd"], "__proto__": ["1"]}),
    ],
)
def test_query_values_are_arrays(query: str, values: dict[str, list[str]] | None) -> None:
    found = made(delivery(query=query)).query_json
    assert (None if found is None else json.loads(found)) == values


def test_forms_are_fields_of_strings() -> None:
    assert evt(b"payload=%7B%22a%22%3A1%7D&x=1&x=2&e=", FORM) == {"payload": ['{"a":1}'], "x": ["1", "2"], "e": [""]}
    assert evt(b"", FORM) == {}


def test_json_under_a_forms_content_type_is_json_as_in_inngest() -> None:
    assert made(delivery(b' {"a":1}', FORM)).evt_json is None
    assert evt(b"{a}=1", FORM) == {"{a}": ["1"]}


def test_multipart_values_without_files() -> None:
    body = (
        b'--BB\r\nContent-Disposition: form-data; name="from"\r\n\r\nann@example.com\r\n'
        b'--BB\r\ncontent-disposition: form-data; name="from"\r\nContent-Type: text/plain\r\n\r\n\xc3\xa9\r\n'
        b'--BB\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nsecret\r\n'
        b"--BB\r\nContent-Disposition: form-data; name=\"f\"; filename*=UTF-8''%C3%A9.txt\r\n\r\nsecret\r\n"
        b"--BB\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--BB--\r\n"
    )
    headers = {"content-type": 'multipart/form-data; boundary="BB"'}
    assert evt(body, headers) == {"from": ["ann@example.com", "é"]}
    assert b"secret" in made(delivery(body, headers)).raw


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=BB"])
def test_a_body_that_is_no_multipart_is_tried_as_json(kind: str) -> None:
    assert made(delivery(b"not a form", {"Content-Type": kind})).evt_json is None


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_form_cut_short_is_no_form(cut: int) -> None:
    """Half its fields would look like a whole form that has no others."""
    parts = [f'--BB\r\nContent-Disposition: form-data; name="{name}"\r\n\r\nv\r\n' for name in "ab"]
    body = ("".join(parts) + "--BB--").encode()
    headers = {"Content-Type": "multipart/form-data; boundary=BB"}
    assert evt(body, headers) == {"a": ["v"], "b": ["v"]}
    assert made(delivery(body[:-cut], headers)).evt_json is None


def test_encoded_bodies_are_decoded_and_others_refused() -> None:
    body = gzip.compress(b'{"a":1}')
    assert made(delivery(body, {"Content-Encoding": "gzip"})).raw == b'{"a":1}'
    for odd in (delivery(b"no gzip", {"Content-Encoding": "gzip"}), delivery(b"{}", {"Content-Encoding": "lzma"})):
        found = call_for(odd, 1 << 20)
        assert isinstance(found, TransformError)
        assert found.code == "body_unreadable"


async def test_raw_is_text_whatever_the_bytes() -> None:
    text = "const transform = (evt, headers, query, raw) => raw"
    async with sandbox() as pool:
        for body, raw in ((b"\xff\x00a", "\ufffd\x00a"), ('\ufeff{"a":1}'.encode(), '\ufeff{"a":1}')):
            answer = await pool.run(script(text), made(delivery(body)))
            assert isinstance(answer, bytes)
            assert json.loads(answer) == raw


def test_a_form_of_too_many_fields_is_refused() -> None:
    body = b"&".join([b"a=1"] * (FIELDS_MAX + 1))
    part = b'--BB\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    many = part * (FIELDS_MAX + 1) + b"--BB--\r\n"
    for long in (delivery(body, FORM), delivery(many, {"Content-Type": "multipart/form-data; boundary=BB"})):
        found = call_for(long, 1 << 24)
        assert isinstance(found, TransformError)
        assert found.code == "body_unreadable"
