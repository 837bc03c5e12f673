"""What holds for every request and every preset: verify never raises and takes linear time. What no byte of a genuine
request may be changed to is in test_verify_mutations.py.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import REJECTIONS, Rejected
from relay.models import Request
from relay.presets import load_presets, preset_for
from relay.schemes.signed import Signed
from relay.verify import Scheme, Verified, explain, sign, verify, wanted
from tests.support.requests import NOW, URL, Vector, judge, request_to, scheme_for, vectors
from tests.support.throwaway import believing, ec_key, jwk, jwks, public_pem, rsa_key

PRESETS = load_presets()
#: Each with options, where it has some, so that what they are for is reached too.
SCHEMES: dict[str, Scheme] = {name: believing(preset)[0] for name, preset in PRESETS.items()}
SECRETS = {name: believing(preset)[2] for name, preset in PRESETS.items()}
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
        [
            *(b"v1,AAAA", b"v1a,AAAA", b"t=1,v1=00", b"sha256=00", b"v0=00", b"Basic !!!", b"AAAA", b"00" * 64),
            *(b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"2026-01-01T00:00:00Z"),
            *(b"Bearer eyJhbGciOiJSUzI1NiJ9.e30.AAAA", b"eyJhbGciOiJIUzI1NiJ9.e30.AAAA", b"eyJhbGciOltdfQ.e30.AA"),
            b"https://api.paypal.com/v1/notifications/certs/CERT-1",
        ]
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
    st.sampled_from(
        [
            b'--x\r\nContent-Disposition: form-data; name="signature"\r\n\r\n00\r\n--x--',
            b'--x\r\nContent-Disposition: form-data; name="json"\r\n\r\n{"event":7}\r\n--x--\r\n',
            b"--x\r\n--x",
            b'{"value":[{"clientState":1},7,null]}',
        ]
    ),
    st.sampled_from([b'{"id":1e999}', b'{"webhookTimestamp":1e400}', b"&=&=%&%f", b"[" * 3000]),
)
texts = st.text(max_size=40)


DOCUMENTS = [b"", b"{}", b"[]", b"\xff", b"-----BEGIN CERTIFICATE-----", b'{"keys":[{}, 7]}']
DOCUMENTS += [jwks(jwk(rsa_key()), jwk(ec_key())).encode(), public_pem(rsa_key()).encode(), b'{"key":{"kty":"EC"}}']


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=25, deadline=None)
@given(
    headers=headers,
    body=bodies,
    query=texts,
    url=texts,
    secrets=st.lists(texts, max_size=3),
    now=st.floats(0, 1e11),
    document=st.sampled_from(DOCUMENTS) | st.binary(max_size=40),
)
def test_never_raises(
    name: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    query: str,
    url: str,
    secrets: list[str],
    now: float,
    document: bytes,
) -> None:
    scheme, request = SCHEMES[name], Request("POST", "/in/x", query, tuple(headers), body)
    secrets += SECRETS.get(name, [])
    documents = {one.name: document for one in wanted(scheme, request, url=url, body=body)}
    answer = verify(scheme, secrets, request, url=url, body=body, now_s=now, documents=documents)
    assert isinstance(answer, Verified) or answer.code in REJECTIONS
    explained, _ = explain(scheme, secrets, request, url=url, body=body, now_s=now, documents=documents)
    assert explained == answer


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_headers_of_a_genuine_request_may_be_ruined_in_any_way(vector: Vector, data: st.DataObject) -> None:
    ruined = tuple(data.draw(st.permutations([*vector.request.headers, *data.draw(headers)])))
    scheme = scheme_for(PRESETS[vector.preset], vector)
    answer = judge(scheme, [vector.secret], vector.request.but(headers=ruined), vector.url, vector.now)
    assert isinstance(answer, Verified) or answer.code in REJECTIONS


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
    b", ,",
    b";h1=",
    b"Bearer ",
    b"HMAC ",
    b".",
    b"eyJ",
    b"AAA.",
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


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if isinstance(preset.scheme, Signed)])
def test_many_signatures_of_a_big_body_cost_little(name: str) -> None:
    """A header full of readable signatures of 5 MB that are all wrong: under a second, some 50 ms mostly."""
    scheme, sign_with, secrets = believing(PRESETS[name])
    assert isinstance(scheme, Signed)
    bare = PRESETS[name].sample().request("/in/demo", now_s=NOW, delivery_id="1")
    signed = sign(scheme, sign_with, bare, url=URL, now_s=NOW, delivery_id="1")
    place = next(iter(scheme.signature.place.headers), b"")
    for separator in (b",", b" ", b";"):
        many = [
            (key, ((value + separator) * 300)[:16000] if key.lower() == place else value)
            for key, value in signed.headers
        ]
        request = signed.but(headers=tuple(many), body=b"x" * 5_000_000)
        start = time.process_time()
        assert isinstance(judge(scheme, secrets * 2, request), Rejected)
        assert time.process_time() - start < 1


@pytest.mark.parametrize("items", [b'{"clientState":"x"}', b"{}", b"7", b"[[]]", b'{"clientState":"\\ud800"}'])
def test_a_list_of_very_many_items_costs_little(items: bytes) -> None:
    body = b'{"value":[' + b",".join([items] * 100_000) + b"]}"
    start = time.process_time()
    assert isinstance(judge(SCHEMES["msgraph_clientstate"], ["y"], request_to(URL, {}, body)), Rejected)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "piece", [b"&", b"a=1&", b"%", b"+", b"--x\r\n", b"\r\n", b"%41", b'{"a":', b"[", b"9", b'"', b"\\u0041", b" "]
)
@pytest.mark.parametrize(
    "name",
    [
        "twilio",
        "slack",
        "linear",
        "mandrill",
        "mailgun",
        "msgraph_clientstate",
        "sns",
        "adyen",
        "mailgun_form",
        "dropbox_sign",
        "hmac with an iso time",
    ],
)
def test_long_bodies_and_queries_cost_little(name: str, piece: bytes) -> None:
    """1 MiB of the worst stays under a second."""
    body = piece * (1024 * 1024 // len(piece))
    for kind in ("application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x"):
        sent = [(header, b"1" * 64) for header in sorted(SCHEMES[name].headers)] + [(b"content-type", kind.encode())]
        request = request_to(URL, sent, body).but(query=body[:16384].decode())
        assert seconds(SCHEMES[name], request, tries=1) < 1
