"""Compiled code says yes to what is common by itself, and to nothing that the Python code would not say yes to.

That it reads requests as the Python code does is seen in test_fast_lane.py, whose every reading is done by both; that
it never vouches for what `verify` refuses, in every test that judges by tests/support/requests.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import compiled
from relay.plain import FIRST_LINES_MAX, Plain
from relay.plain import read_plain as read_in_python
from relay.presets import load_presets, preset_for
from relay.schemes.base import SIGNATURE_BYTES_MAX, Vouches
from relay.schemes.mac import Mac, keyed
from relay.schemes.mac_forms import quicker
from relay.schemes.places import Reader
from relay.verify import sign
from tests.support.requests import NOW, URL, readers, request_to
from tests.support.throwaway import believing

PRESETS = load_presets()
MACS = {name: preset.scheme for name, preset in PRESETS.items() if isinstance(preset.scheme, Mac)}
#: Those whose form is none of the common ones: several headers of signatures, groups, a URL, a form, a member of the
#: body, a plain hash, a time as text.
OTHERS = {
    *("cloudinary", "docusign", "hubspot_v1", "hubspot_v2", "hubspot_v3", "linear"),
    *("mailgun", "mailgun_form", "mandrill", "pandadoc", "persona", "square", "teams_outgoing", "trello"),
    *("twitch", "zendesk"),
}
SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes, mostly").decode()

needed = pytest.mark.skipif(not compiled.IS_COMPILED, reason="there is no compiled code here")


def nobody(reader: Reader, now_s: float) -> bool:
    return False


def ways(scheme: Mac, secret: str) -> tuple[Vouches, Vouches]:
    """How compiled code judges by itself, and how Python code does."""
    key = scheme.key.read(secret)
    assert key is not None
    alone = quicker(scheme, [keyed(key, scheme.algorithm)], nobody)
    voucher = scheme.voucher([secret])
    return alone, voucher.ask if isinstance(voucher, compiled.MacVoucher) else voucher


def test_it_is_there_where_it_could_be_built() -> None:
    can_build = shutil.which("cc") and Path(sysconfig.get_paths()["include"], "Python.h").exists()
    if not can_build or os.environ.get("RELAY_COMPILED") == "0":
        pytest.skip("it could not be built, or is not wanted")
    assert compiled.IS_COMPILED, "install the relay again, with a C compiler: make clean test"


def test_it_can_be_left_aside() -> None:
    program = "from relay import compiled as c, plain; print(c.IS_COMPILED, c.read_plain is plain.read_plain)"
    found = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "RELAY_COMPILED": "0"}, capture_output=True, check=True
    )
    assert found.stdout.split() == [b"False", b"True"]


@needed
@pytest.mark.parametrize("name", sorted(MACS))
def test_most_providers_are_common(name: str) -> None:
    scheme, secret, secrets = believing(PRESETS[name])
    assert isinstance(scheme, Mac)
    common = isinstance(scheme.voucher(secrets), compiled.MacVoucher)
    assert common == (name not in OTHERS), "which of them are common has changed"
    if common:
        request = request_to(URL, {"Klaviyo-Timestamp": str(NOW)}, BODY)
        signed = sign(scheme, secret, request, url=URL, now_s=NOW, delivery_id="m1")
        alone, _ = ways(scheme, secret)
        assert all(alone(reader, NOW) for reader in readers(scheme, signed, URL))


@needed
@pytest.mark.parametrize(
    ("pattern", "common"),
    [
        (r"(?:^|,)\s*v1=([0-9a-f]+)", True),
        (r"(?:^|;)v1=([^;\s]+)", True),
        (r"(?:^|\s)v1=(\d+)", True),
        (r"(?:^|,)\s*v1=([^;]+)", False),  # an item would go on behind the comma
        (r"(?i)(?:^|,)\s*v1=([0-9a-f]+)", False),
        (r"(?:^|,)\s*v1=([0-9a-f]+)$", False),
        (r"v1=([0-9a-f]+)", False),
    ],
)
def test_patterns_of_ones_own(pattern: str, common: bool) -> None:
    preset = preset_for("hmac", {"header": "X-Sig", "pattern": pattern}, file=None, key="sources.x")
    assert isinstance(preset.scheme.voucher(["s"]), compiled.MacVoucher) is common


def by(key: bytes, content: bytes, encode: Callable[[bytes], bytes]) -> bytes:
    return encode(hmac.digest(key, content, "sha256"))


def hexed(digest: bytes) -> bytes:
    return digest.hex().encode()


BODY = b'{"id":"evt_1"}'
GOOD = {
    "stripe": by(SECRET.encode(), b"%d.%b" % (NOW, BODY), hexed),
    "github": by(SECRET.encode(), BODY, hexed),
    "slack": by(SECRET.encode(), b"v0:%d:%b" % (NOW, BODY), hexed),
    "standard_webhooks": by(base64.b64decode(SECRET[6:]), b"m1.%d.%b" % (NOW, BODY), base64.b64encode),
}
FORMS: dict[str, tuple[str, list[bytes], dict[str, bytes]]] = {
    "stripe": ("Stripe-Signature", [b"t=%d" % NOW, b"v1=" + GOOD["stripe"], b"v1=", b"v0=00", b","], {}),
    "github": ("X-Hub-Signature-256", [b"sha256=", GOOD["github"]], {}),
    "slack": ("X-Slack-Signature", [b"v0=", GOOD["slack"]], {"X-Slack-Request-Timestamp": b"%d" % NOW}),
    "standard_webhooks": (
        "webhook-signature",
        [b"v1,", GOOD["standard_webhooks"], b"v1," + GOOD["standard_webhooks"], b"v1a,x"],
        {"webhook-id": b"m1", "webhook-timestamp": b"%d" % NOW},
    ),
}
ODD = [
    b" ",
    b"\t",
    b",",
    b";",
    b"=",
    b"t=1",
    b"t=%d0" % NOW,
    b"\x00",
    b"\xff",
    b"0",
    b"A",
    b"v1=00,",
    b"t=",
    b"\n",
    b"=",
]
ORDER = st.lists(st.integers(0, 30), max_size=7)


@needed
@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(FORMS)), ORDER, st.sampled_from([0.0, 299.4, 300.0, 301.5, -301.0]))
def test_it_vouches_for_nothing_else(name: str, order: list[int], passed_s: float) -> None:
    header, pieces, others = FORMS[name]
    choices = [*pieces, *pieces, *ODD]
    sent = b"".join([choices[place % len(choices)] for place in order])
    alone, in_python = ways(MACS[name], SECRET)
    for reader in readers(MACS[name], request_to(URL, {header: sent, **others}, BODY), URL):
        assert not alone(reader, NOW + passed_s) or in_python(reader, NOW + passed_s), sent


@needed
@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [
        ("stripe", b"t=%d,v1=%b" % (NOW, GOOD["stripe"]), True),
        ("stripe", b"v1=%b,v0=aa,t=%d" % (GOOD["stripe"], NOW), True),
        ("stripe", b"t=%d,v1=%b" % (NOW, GOOD["stripe"].upper()), True),
        ("stripe", b"  t=%d,  v1=%b" % (NOW, GOOD["stripe"]), True),
        ("stripe", b"t=%d ,v1=%b" % (NOW, GOOD["stripe"]), False),  # clear to Python, though not here
        ("stripe", b"t=%d,\tv1=%b" % (NOW, GOOD["stripe"]), False),  # likewise
        ("stripe", b"t=%d,v1=%b,v1=00" % (NOW, GOOD["stripe"]), False),  # likewise
        ("stripe", b"t=0%d,v1=%b" % (NOW, GOOD["stripe"]), False),
        ("stripe", b"t=%d,t=%d,v1=%b" % (NOW, NOW, GOOD["stripe"]), False),
        ("stripe", b"t=%dx,v1=%b" % (NOW, GOOD["stripe"]), False),
        ("stripe", b"v1=%b" % GOOD["stripe"], False),
        ("stripe", b"t=%d,v1=%b,v0=%b" % (NOW, GOOD["stripe"], b"a" * SIGNATURE_BYTES_MAX), False),
        ("stripe", b"t=%020d,v1=%b" % (NOW, by(SECRET.encode(), b"%020d.%b" % (NOW, BODY), hexed)), False),
        ("stripe", b"t=%015d,v1=%b" % (NOW, by(SECRET.encode(), b"%015d.%b" % (NOW, BODY), hexed)), True),
        ("github", b"sha256=%b" % GOOD["github"], True),
        ("github", b"SHA256=%b" % GOOD["github"], False),
        ("github", b"sha256=", False),
        ("slack", b"v0=%b" % GOOD["slack"], True),
        ("standard_webhooks", b"v1,%b" % GOOD["standard_webhooks"], True),
        ("standard_webhooks", b"v1a,xx v1,%b" % GOOD["standard_webhooks"], True),
        ("standard_webhooks", b"v1,%b v1,xx" % GOOD["standard_webhooks"], False),
    ],
)
def test_what_it_is_sure_of(name: str, sent: bytes, said: bool) -> None:
    header, _, others = FORMS[name]
    alone, _ = ways(MACS[name], SECRET)
    for reader in readers(MACS[name], request_to(URL, {header: sent, **others}, BODY), URL):
        assert alone(reader, NOW) is said
        altered = request_to(URL, {header: sent, **others}, BODY + b" ")
        assert not any(alone(each, NOW) for each in readers(MACS[name], altered, URL))


@needed
def test_an_empty_header_is_no_part_of_what_is_signed() -> None:
    key = base64.b64decode(SECRET[6:])
    for sent_id, said in ((b"m1", True), (b"", False)):
        signature = b"v1," + by(key, b"%b.%d.%b" % (sent_id, NOW, BODY), base64.b64encode)
        sent = {"webhook-id": sent_id, "webhook-timestamp": b"%d" % NOW, "webhook-signature": signature}
        for way in ways(MACS["standard_webhooks"], SECRET):
            for reader in readers(MACS["standard_webhooks"], request_to(URL, sent, BODY), URL):
                assert way(reader, NOW) is said


@needed
def test_a_forgery_is_hashed_once_here() -> None:
    """That it does not match is sure; the long way will say what is wrong with it."""
    hashed: list[bytes] = []

    def mac(content: bytes) -> bytes:
        hashed.append(content)
        return b"another"

    def unasked(reader: Reader, now_s: float) -> bool:
        raise AssertionError("the Python way would hash it again")

    voucher = quicker(MACS["github"], [mac], unasked)
    for reader in readers(MACS["github"], request_to(URL, {"X-Hub-Signature-256": "sha256=00"}, BODY), URL):
        assert voucher(reader, NOW) is False
    assert hashed == [BODY, BODY]


@needed
def test_what_is_signed_may_have_many_parts() -> None:
    content = "".join(f"{number}{{header:x-{number}}}" for number in range(20)) + "{body}"
    preset = preset_for("hmac", {"header": "X-Sig", "content": content}, file=None, key="sources.x")
    assert isinstance(preset.scheme, Mac)
    signed = b"".join(b"%dh%d" % (number, number) for number in range(20)) + BODY
    sent = {f"X-{number}": f"h{number}" for number in range(20)} | {"X-Sig": by(b"s", signed, hexed).decode()}
    alone, in_python = ways(preset.scheme, "s")
    for reader in readers(preset.scheme, request_to(URL, sent, BODY), URL):
        assert alone(reader, NOW)
        assert in_python(reader, NOW)


@needed
def test_what_came_twice_is_for_others_to_judge() -> None:
    sent = [("X-Hub-Signature-256", b"sha256=%b" % GOOD["github"]), ("X-GitHub-Event", "a"), ("X-GitHub-Event", "b")]
    for way in ways(MACS["github"], SECRET):
        (reader,) = readers(MACS["github"], request_to(URL, sent, BODY), URL)
        assert reader.several
        assert not way(reader, NOW)


@needed
@pytest.mark.parametrize(("passed_s", "said"), [(300.9, True), (301.0, False), (-10_000.0, True)])
def test_the_time_is_judged_as_in_python(passed_s: float, said: bool) -> None:
    sent = {"Stripe-Signature": b"t=%d,v1=%b" % (NOW, GOOD["stripe"])}
    for way in ways(MACS["stripe"], SECRET):
        for reader in readers(MACS["stripe"], request_to(URL, sent, BODY), URL):
            assert way(reader, NOW + passed_s) is said


def test_what_was_met_before_is_not_mixed_up() -> None:
    """Names and first lines are remembered, more of them than there is room for."""
    for number in range(2 * FIRST_LINES_MAX):
        name = hashlib.sha256(b"%d" % number).hexdigest()[: number % 60 + 3]
        data = (
            f"POST /in/a{number} HTTP/1.1\r\nHost: h\r\n{name.upper()}: {number}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        found = compiled.read_plain(data, 100, 16 * 1024)
        assert isinstance(found, Plain)
        assert found == read_in_python(data, 100, 16 * 1024)
        assert (found.source, found.request.headers[1]) == (f"a{number}", (name.upper().encode(), b"%d" % number))
    if compiled.IS_COMPILED:
        heads = import_module("relay.compiled.heads")
        assert 0 < heads.lines_known() <= FIRST_LINES_MAX
