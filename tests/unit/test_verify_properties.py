"""What holds for every request: verify never raises, takes linear time, and no signed byte can be changed."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import REJECTIONS, Rejected
from relay.models import Request
from relay.presets import load_presets, preset_for
from relay.schemes.places import fields
from relay.verify import Scheme, Verified, verify
from tests.support.requests import URL, Vector, judge, request_to, vectors

SCHEMES: dict[str, Scheme] = {name: preset.scheme for name, preset in load_presets().items()}
SCHEMES["hmac with a time"] = preset_for(
    "hmac",
    {"header": "X-Sig", "pattern": r"v=([^,]+)", "timestamp_pattern": r"t=(\d+)", "content": "{t}.{body}"},
    file=None,
    key="sources.x",
).scheme
SCHEMES["hmac with an iso time"] = preset_for(
    "hmac",
    {
        "header": "X-Sig",
        "timestamp_header": "X-T",
        "timestamp_unit": "iso",
        "content": "{t}{json:a.0.b}{query:q}{body}",
    },
    file=None,
    key="sources.x",
).scheme
SCHEMES["basic"] = preset_for("token", {"basic": True}, file=None, key="sources.x").scheme
SCHEMES["query"] = preset_for("token", {"query": "key"}, file=None, key="sources.x").scheme
VALID = [vector for vector in vectors() if vector.valid]
NAMES = sorted({name for scheme in SCHEMES.values() for name in scheme.headers} | {b"content-type"})

values = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"v1,AAAA", b"t=1,v1=00", b"sha256=00", b"v0=00", b"Basic !!!", b"application/x-www-form-urlencoded"]
    ),
    st.integers(min_value=-1, max_value=2**70).map(lambda number: str(number).encode()),
)
headers = st.lists(st.tuples(st.sampled_from(NAMES) | st.binary(max_size=8), values), max_size=8)
bodies = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    ).map(lambda value: repr(value).replace("'", '"').encode("utf-8", "surrogatepass")),
    st.sampled_from([b'{"id":1e999}', b'{"webhookTimestamp":1e400}', b"&=&=%&%f", b"[" * 3000]),
)
texts = st.text(max_size=40)


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=60, deadline=None)
@given(
    headers=headers, body=bodies, query=texts, url=texts, secrets=st.lists(texts, max_size=3), now=st.floats(0, 1e11)
)
def test_never_raises(
    name: str, headers: list[tuple[bytes, bytes]], body: bytes, query: str, url: str, secrets: list[str], now: float
) -> None:
    request = Request("POST", "/in/x", query, tuple(headers), body)
    answer = verify(SCHEMES[name], secrets, request, url=url, body=body, now_s=now)
    assert isinstance(answer, Verified) or answer.code in REJECTIONS


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_headers_of_a_genuine_request_may_be_ruined_in_any_way(vector: Vector, data: st.DataObject) -> None:
    ruined = tuple(data.draw(st.permutations([*vector.request.headers, *data.draw(headers)])))
    answer = judge(
        SCHEMES[vector.preset], [vector.secret], replace(vector.request, headers=ruined), vector.url, vector.now
    )
    assert isinstance(answer, Verified) or answer.code in REJECTIONS


@pytest.mark.parametrize("vector", [v for v in VALID if v.preset != "gitlab_token"], ids=lambda vector: vector.id)
def test_no_byte_of_the_body_can_be_changed(vector: Vector) -> None:
    scheme, body = SCHEMES[vector.preset], vector.request.body
    for index in range(len(body)):
        for flip in (0x01, 0x20, 0x80):
            changed = body[:index] + bytes([body[index] ^ flip]) + body[index + 1 :]
            if vector.preset == "twilio" and sorted(set(fields(changed))) == sorted(set(fields(body))):
                continue  # Twilio signs the fields, not how they are written: %2B is %2b
            request = replace(vector.request, body=changed)
            answer = judge(scheme, [vector.secret], request, vector.url, vector.now)
            assert isinstance(answer, Rejected), (index, flip)


@pytest.mark.parametrize("vector", [v for v in VALID if v.preset != "gitlab_token"], ids=lambda vector: vector.id)
def test_no_body_can_be_shortened_or_lengthened(vector: Vector) -> None:
    body = vector.request.body
    for changed in (body[:-1], body[1:], body + b"x", b"x" + body, body + body, b""):
        request = replace(vector.request, body=changed)
        assert isinstance(judge(SCHEMES[vector.preset], [vector.secret], request, vector.url, vector.now), Rejected)


PIECES = [
    b" ",
    b",",
    b", ",
    b"v1=",
    b"t=1,",
    b"v1,A ",
    b"v1,",
    b"=",
    b"1",
    b"a",
    b"\t",
    b"Basic ",
    b"sha256=",
    b"0" * 64,
]


def seconds(scheme: Scheme, request: Request, *, tries: int = 3) -> float:
    best = 1e9
    for _ in range(tries):
        start = time.process_time()
        judge(scheme, ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain"], request)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", SCHEMES)
def test_long_headers_cost_little(name: str) -> None:
    """16 KiB of the worst in every header at once (the receiver's limit for all of them) stays under 50 ms."""
    for piece in PIECES:
        value = (piece * 16384)[:16384]
        request = request_to(URL, [(header, value) for header in sorted(SCHEMES[name].headers)], b"{}")
        assert seconds(SCHEMES[name], request) < 0.05, piece


@pytest.mark.parametrize("piece", [b"&", b"a=1&", b"%", b"+", b"%41", b'{"a":', b"[", b"9", b'"', b"\\u0041", b" "])
@pytest.mark.parametrize("name", ["twilio", "slack", "linear", "hmac with an iso time"])
def test_long_bodies_and_queries_cost_little(name: str, piece: bytes) -> None:
    """1 MiB of the worst stays under a second."""
    body = piece * (1024 * 1024 // len(piece))
    for kind in ("application/x-www-form-urlencoded", "application/json"):
        sent = [(header, b"1" * 64) for header in sorted(SCHEMES[name].headers)] + [(b"content-type", kind.encode())]
        request = replace(request_to(URL, sent, body), query=body[:16384].decode())
        assert seconds(SCHEMES[name], request, tries=1) < 1
