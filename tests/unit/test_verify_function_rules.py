"""Each rule of the schemes that are code, by itself: batches, certificates, canonical requests, forms."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from relay.models import Request
from relay.presets import load_preset, preset_for
from relay.verify import Scheme, Verified, sign, verify
from tests.support.handshakes import braintree_answer
from tests.support.requests import NOW, URL, code, judge, request_to

FORM = "application/x-www-form-urlencoded"


def scheme(name: str, **keys: Any) -> Scheme:
    return preset_for(name, keys, file=None, key="sources.x").scheme


def mac(secret: str | bytes, content: str | bytes, algorithm: str = "sha256") -> bytes:
    key, text = (part.encode() if isinstance(part, str) else part for part in (secret, content))
    return hmac.new(key, text, algorithm).digest()


class TestAdyen:
    KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"

    def item(self, key: str = KEY, **changed: Any) -> dict[str, Any]:
        amount = {"currency": "EUR", "value": 1130}
        item = {"pspReference": "1", "amount": amount, "eventCode": "AUTHORISATION", "success": "true", **changed}
        content = f"{item['pspReference']}::::1130:EUR:AUTHORISATION:true"
        return {**item, "additionalData": {"hmacSignature": b64encode(mac(bytes.fromhex(key), content)).decode()}}

    def answer(self, items: Any, *secrets: str) -> str:
        body = items if isinstance(items, str) else self.batch(*items)
        return code(judge(scheme("adyen"), secrets or [self.KEY], request_to(URL, {}, body.encode())))

    def batch(self, *items: Any) -> str:
        return json.dumps({"notificationItems": [{"NotificationRequestItem": item} for item in items]})

    def test_each_item_needs_a_signature_of_its_own(self) -> None:
        unsigned = {**self.item(), "additionalData": {}}
        assert self.answer([self.item(), self.item(pspReference="2")]) == "verified"
        assert self.answer([self.item(), unsigned]) == "signature_missing"
        assert self.answer([self.item(), {**self.item(), "pspReference": "2"}]) == "signature_mismatch"
        assert self.answer([self.item(), "text"]) == "signature_missing"

    def test_items_may_be_signed_with_different_secrets_while_a_key_is_renewed(self) -> None:
        items = [self.item(), self.item("ab" * 32)]
        assert self.answer(items, self.KEY, "ab" * 32) == "verified"
        assert self.answer(items, self.KEY) == "signature_mismatch"

    def test_a_batch_has_at_least_one_item_and_at_most_a_thousand(self) -> None:
        assert self.answer([]) == "signature_missing"
        assert self.answer([self.item()] * 1000) == "verified"
        assert self.answer([self.item()] * 1001) == "signature_missing"

    @pytest.mark.parametrize("value", ["1130.0", "113e1", "true", "[1130]", "null", "1131"])
    def test_an_amount_is_what_was_signed_as_it_is_written(self, value: str) -> None:
        body = self.batch(self.item())
        assert self.answer(body.replace("1130", value)) == "signature_mismatch"

    @pytest.mark.parametrize(
        ("values", "outcome"),
        [("1," * 40_000, "verified"), ("1," * 60_000, "signature_missing"), ('"",' * 300_000, "signature_missing")],
    )
    def test_a_body_of_very_many_values_is_not_taken_apart(self, values: str, outcome: str) -> None:
        """Anybody may send 5 MB of them, and other sources' webhooks wait meanwhile."""
        body = self.batch(self.item())
        assert self.answer(f'{{"x": [{values}0], {body[1:]}') == outcome

    def test_an_absent_reference_may_be_null(self) -> None:
        assert self.answer([self.item(originalReference=None)]) == "verified"

    @pytest.mark.parametrize(
        ("signed", "changed"),
        [
            ('"value": 1130', '"value": 9, "value": 1130'),
            ('"value": 1130', '"value": 1130, "value": 9'),
            ('"eventCode"', '"eventCode": "REFUND", "eventCode"'),
            ('"notificationItems"', '"notificationItems": [], "notificationItems"'),
            ('"success"', '"x": NaN, "success"'),
            ('"success"', '"x": "\udcff", "success"'),
        ],
    )
    def test_json_that_parsers_read_differently_is_refused(self, signed: str, changed: str) -> None:
        body = self.batch(self.item())
        assert signed in body
        sent = body.replace(signed, changed).encode("utf-8", "surrogateescape")
        answer = judge(scheme("adyen"), [self.KEY], request_to(URL, {}, sent))
        assert code(answer) == "signature_missing"

    def test_the_key_is_hex(self) -> None:
        assert scheme("adyen").key_problem("not hex") == "is not hex"
        assert self.answer([self.item()], "not hex") == "key_unavailable"


class TestContentful:
    SECRET = "fake-contentful-signing-secret-0123456789-0123456789-0123456789-"
    SIGNED = "content-type,x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic"

    @pytest.mark.parametrize(
        ("path", "signature"),
        [
            ("/in/demo", "4b2f6ed77653d2d5ddfb613109654509ed6620a6011df216825e3ad2cf645385"),
            ("/in/demo?", "4b2f6ed77653d2d5ddfb613109654509ed6620a6011df216825e3ad2cf645385"),
            ("/in/a%20b?q=a%20b", "95e44f89434cf5f50e876010c16abb38008015c432bf5688f395192cd47d0344"),
            ("/in/démo?q=ü&x=[1]!*'()", "80513c5a61c89acf6a4a855789fc8f3ef0ad4e4af83592a59dd0e3ebce868d41"),
            ("", "315f9f75ab900a6562486fdd1fbd7d8492899dcfb0429582fc4fc3baebb2403b"),
        ],
    )
    def test_paths_and_queries_signed_by_contentfuls_own_toolkit(self, path: str, signature: str) -> None:
        """The signatures are those of signRequest in @contentful/node-apps-toolkit 3.16.1."""
        url = f"https://relay.example.test{path}"
        assert self.answer(self.headers(signature), url=url) == "verified"
        assert self.answer(self.headers(signature), url=f"{url}/x") == "signature_mismatch"

    def headers(self, signature: str, signed: str = SIGNED) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "X-Contentful-Topic": " ContentManagement.Entry.publish ",
            "X-Contentful-Timestamp": "1760000000000",
            "X-Contentful-Signed-Headers": signed,
            "X-Contentful-Signature": signature,
        }

    def made(self, signed: str, **more: str) -> dict[str, str]:
        """Signed over exactly the headers of that list, in its order."""
        headers = {**self.headers("", signed), **more}
        there = {name.lower(): value.strip() for name, value in headers.items()}
        listed = ";".join(f"{name}:{there.get(name, '')}" for name in signed.split(","))
        content = f'POST\n/in/demo\n{listed}\n{{"a":"é"}}'
        return {**headers, "X-Contentful-Signature": mac(self.SECRET, content).hex()}

    def answer(self, headers: Mapping[str, str], now: float = NOW, url: str = URL, **keys: Any) -> str:
        request = request_to(url, headers, '{"a":"é"}'.encode())
        return code(judge(scheme("contentful", **keys), [self.SECRET], request, url, now))

    @pytest.mark.parametrize(
        ("signed", "expected"),
        [
            ("x-contentful-signed-headers,x-contentful-timestamp", "verified"),
            ("x-contentful-signed-headers", "signature_mismatch"),
            ("x-contentful-timestamp", "signature_mismatch"),
            ("content-type", "signature_mismatch"),
            ("x-contentful-timestamp,x-contentful-signed-headers", "signature_mismatch"),
            ("x-contentful-signed-headers,x-contentful-timestamp,x-contentful-timestamp", "signature_mismatch"),
            ("x-absent,x-contentful-signed-headers,x-contentful-timestamp", "signature_missing"),
            ("x-contentful-signed-headers,x-contentful-timestamp,y-absent", "signature_missing"),
        ],
    )
    def test_the_list_of_signed_headers(self, signed: str, expected: str) -> None:
        assert self.answer(self.made(signed)) == expected

    def test_the_list_of_signed_headers_is_bounded(self) -> None:
        for count, expected in ((98, "verified"), (99, "signature_mismatch")):
            names = [f"a{index:03}" for index in range(count)]
            signed = ",".join([*names, "x-contentful-signed-headers", "x-contentful-timestamp"])
            assert self.answer(self.made(signed, **dict.fromkeys(names, "1"))) == expected

    def test_a_request_is_stale_after_half_a_minute(self) -> None:
        headers = self.made(self.SIGNED)
        assert self.answer(headers, NOW + 30) == "verified"
        assert self.answer(headers, NOW + 31) == "timestamp_stale"
        assert self.answer(headers, NOW + 31, tolerance_seconds=60) == "verified"


class TestBraintree:
    def answer(self, form: Mapping[str, str], kind: str = FORM, body: bytes | None = None, **keys: Any) -> str:
        sent = urlencode(form).encode() if body is None else body
        return code(judge(scheme("braintree", **keys), ["priv"], request_to(URL, {"Content-Type": kind}, sent)))

    def signature(self, text: str) -> str:
        return mac(hashlib.sha1(b"priv").digest(), text, "sha1").hex()

    def test_the_answer_to_a_challenge(self) -> None:
        """As the Python SDK computes it."""
        answer = braintree_answer("fake_priv", "fake_pub", "20f9f8ed05f77439fe955c977e4c8a53")
        assert answer == "fake_pub|3cd1662227acc261645ec0a2bc5b8f4a755254ae"

    @pytest.mark.parametrize("challenge", ["", "xyz", "A" * 20, "a" * 19, "a" * 33, "a" * 20 + "\n", "a|b" * 8])
    def test_what_is_no_challenge_is_not_signed(self, challenge: str) -> None:
        assert braintree_answer("priv", "pub", challenge) is None

    def test_only_the_configured_public_keys_signature_counts(self) -> None:
        form = {"bt_signature": f"other|{'0' * 40}&pub|{self.signature('AAAA')}", "bt_payload": "AAAA"}
        assert self.answer(form) == "verified"
        assert self.answer(form, public_key="pub") == "verified"
        assert self.answer(form, public_key="other") == "signature_mismatch"
        assert self.answer({**form, "bt_signature": self.signature("AAAA")}) == "signature_mismatch"

    def test_the_line_break_at_the_end_may_have_been_lost(self) -> None:
        assert (
            self.answer({"bt_signature": f"pub|{self.signature('AAAA' + chr(10))}", "bt_payload": "AAAA"}) == "verified"
        )

    def test_a_payload_that_is_no_base64(self) -> None:
        form = {"bt_signature": f"pub|{self.signature('<a/>')}", "bt_payload": "<a/>"}
        assert self.answer(form) == "signature_mismatch"

    def test_a_form_that_a_transform_would_read_as_json_is_none(self) -> None:
        """Or the signed form would vouch for the JSON around it."""
        genuine = urlencode({"bt_signature": f"pub|{self.signature('AAAA')}", "bt_payload": "AAAA"})
        forged = f'{{"bt_payload":["forged"],"x":"&{genuine}&"}}'.encode()
        assert self.answer({}, body=genuine.encode()) == "verified"
        assert self.answer({}, body=forged) == "signature_missing"
        assert self.answer({}, body=genuine.encode(), kind="text/plain") == "signature_missing"


class TestBox:
    TIME = "2025-10-09T08:52:50-00:00"  # half a minute before NOW

    def answer(self, body: str, now: float = NOW, signed: str | None = None, **sent: Any) -> str:
        keys = {name: sent.pop(name) for name in ("secondary_key", "tolerance_seconds") if name in sent}
        secrets = sent.pop("secrets", ["first"])
        return code(judge(scheme("box", **keys), secrets, self.request(body, signed, **sent), now=now))

    def request(self, body: str, signed: str | None, **sent: Any) -> Request:
        made = {name: b64encode(mac(key, (signed or body) + self.TIME)).decode() for name, key in sent.items()}
        headers = {f"BOX-SIGNATURE-{name}": value for name, value in made.items()}
        named = {"Delivery-Timestamp": self.TIME, "Signature-Version": "1", "Signature-Algorithm": "HmacSHA256"}
        return request_to(URL, {**headers, **{f"Box-{name}": value for name, value in named.items()}}, body.encode())

    def test_any_secret_may_have_made_either_signature(self) -> None:
        assert self.answer("{}", primary="first") == "verified"
        assert self.answer("{}", secondary="first") == "verified"
        assert self.answer("{}", primary="new", secondary="first") == "verified"
        assert self.answer("{}", primary="new", secrets=["first", "new"]) == "verified"
        assert self.answer("{}", primary="new") == "signature_mismatch"
        assert self.answer("{}") == "signature_missing"

    def test_the_secondary_key_is_for_the_secondary_signature(self) -> None:
        assert self.answer("{}", primary="x", secondary="second", secondary_key="second") == "verified"
        assert self.answer("{}", primary="second", secondary="x", secondary_key="second") == "signature_mismatch"
        assert self.answer("{}", secondary="second", secondary_key="second", secrets=[]) == "verified"

    def test_a_body_signed_with_escapes_is_the_same_json(self) -> None:
        body, signed = '{"name":"Zoë 🚀 \\"x\\""}', '{"name":"Zo\\u00eb \\ud83d\\ude80 \\"x\\""}'
        assert json.loads(body) == json.loads(signed)
        assert self.answer(body, signed=signed, primary="first") == "verified"
        assert self.answer(signed, signed=body, primary="first") == "signature_mismatch"

    @pytest.mark.parametrize("text", ["ÿ", "\x80", "Ā", "é\\\\xé", "é\x7f", "🚀🚀", "\uffff"])
    def test_every_character_beyond_ascii_is_escaped_as_box_does_it(self, text: str) -> None:
        escaped = json.dumps(text).replace("\x7f", "\\u007f").replace("\\\\", "\\")
        assert self.answer(f'{{"name":"{text}"}}', signed=f'{{"name":{escaped}}}', primary="first") == "verified"

    def test_escaping_a_long_body_costs_little(self) -> None:
        """Anybody can ask for it, and a loop over the characters would keep every other request waiting."""
        for text in ("é", "ié", "🚀", "ÿ\\\\x"):
            request = self.request(text * (1024 * 1024 // len(text.encode())), "other", primary="first")
            started = time.process_time()
            answer = verify(scheme("box"), ["first"], request, url=URL, body=request.body, now_s=NOW)
            assert time.process_time() - started < 0.3
            assert code(answer) == "signature_mismatch"

    def test_an_escape_that_would_mean_something_else(self) -> None:
        """The signed JSON holds a backslash and five characters, the body would be read with an ë."""
        assert self.answer('{"name":"Zo\\ë"}', signed='{"name":"Zo\\\\u00eb"}', primary="first") == "signature_mismatch"

    def test_old_and_future_requests_are_stale(self) -> None:
        assert self.answer("{}", NOW + 570, primary="first") == "verified"
        assert self.answer("{}", NOW + 571, primary="first") == "timestamp_stale"
        assert self.answer("{}", NOW - 31, primary="first") == "timestamp_stale"
        assert self.answer("{}", NOW - 31, primary="first", tolerance_seconds=5) == "verified"


class TestHook0:
    def answer(self, header: str, now: float = NOW, body: bytes = b"{}", **sent: str) -> str:
        headers = {"X-Hook0-Signature": header, **{name.replace("_", "-"): value for name, value in sent.items()}}
        return code(judge(scheme("coinbase_cdp_v1"), ["s"], request_to(URL, headers, body), now=now))

    def signed(self, names: str, values: str, t: object = NOW) -> str:
        return f"t={t},v0=00,h={names},v1={mac('s', f'{t}.{names}.{values}.' + '{}').hex()}"

    def test_the_named_headers_must_all_be_there_as_they_were(self) -> None:
        header = self.signed("x-event-id x-b", "1.2")
        assert self.answer(header, X_Event_Id="1", X_B="2") == "verified"
        assert self.answer(header, X_Event_Id="1", X_B="3") == "signature_mismatch"
        assert self.answer(header, X_Event_Id="1") == "signature_missing"
        assert self.answer(self.signed("x-b x-event-id", "1.2"), X_Event_Id="1", X_B="2") == "signature_mismatch"
        assert self.answer(header.replace("h=x", "h=X"), X_Event_Id="1", X_B="2") == "signature_mismatch"

    def test_the_weaker_signature_alone_is_not_enough(self) -> None:
        assert self.answer(f"t={NOW},v0={mac('s', f'{NOW}.' + '{}').hex()}") == "signature_missing"

    def test_what_is_there_twice_is_not_guessed(self) -> None:
        header = self.signed("x-b", "2")
        assert self.answer(header, X_B="2") == "verified"
        assert self.answer(f"{header},t=1", X_B="2") == "signature_missing"
        assert self.answer(f"{header},h=x-c", X_B="2") == "signature_mismatch"
        assert self.answer(f"v1={'0' * 64},{header}", X_B="2") == "verified", "several signatures may be sent"

    def test_lists_are_bounded(self) -> None:
        names = [f"x-{index}" for index in range(65)]
        for count, expected in ((64, "verified"), (65, "signature_mismatch")):
            header = self.signed(" ".join(names[:count]), ".".join("1" * count))
            sent = {"X-Hook0-Signature": header, **dict.fromkeys(names, "1")}
            assert code(judge(scheme("coinbase_cdp_v1"), ["s"], request_to(URL, sent, b"{}"))) == expected

    def test_both_sides_of_the_time_are_judged(self) -> None:
        header = self.signed("x-b", "2")
        for now, expected in (
            (300, "verified"),
            (301, "timestamp_stale"),
            (-300, "verified"),
            (-301, "timestamp_stale"),
        ):
            assert self.answer(header, NOW + now, X_B="2") == expected


class TestDropboxSign:
    KEY = "fake-api-key"

    def event(self, time: object = str(NOW), kind: str = "signature_request_sent", **more: Any) -> str:
        digest = mac(self.KEY, f"{time}{kind}").hex()
        return json.dumps({"event": {"event_time": time, "event_type": kind, "event_hash": digest}, **more})

    def answer(self, body: str, kind: str = FORM, now: float = NOW, **keys: Any) -> Any:
        request = request_to(URL, {"Content-Type": kind}, body.encode())
        return judge(scheme("dropbox_sign", **keys), [self.KEY], request, now=now)

    def part(self, text: str, name: str = "json") -> str:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'

    def test_the_field_of_a_multipart_form(self) -> None:
        kind = "multipart/form-data; boundary=b"
        body = f"{self.part('x', 'other')}{self.part(self.event())}--b--\r\n"
        assert self.answer(body, kind) == Verified(self.answer(body, kind).key, "signature_request_sent")
        assert code(self.answer(body.replace("sent", "gone"), kind)) == "signature_mismatch"
        assert code(self.answer(body[:-8], kind)) == "signature_missing", "half a form is none"
        twice = f"{self.part(self.event())}{self.part(self.event(signature_request='x'))}--b--\r\n"
        assert code(self.answer(twice, kind)) == "signature_missing"

    def test_the_delivery_id_is_the_whole_event(self) -> None:
        one, other = (self.answer(urlencode({"json": self.event(signature_request=name)})) for name in ("a", "b"))
        assert one.key != other.key, "events of one second and type share their hash"

    @pytest.mark.parametrize(
        "event",
        ["", "[]", '{"event":[]}', '{"event":{}}', '{"event":{"event_time":"1","event_type":"a"}}', "[" * 9000],
    )
    def test_what_holds_no_event(self, event: str) -> None:
        assert code(self.answer(urlencode({"json": event}))) == "signature_missing"

    def test_a_digit_cannot_move_from_the_time_to_the_type(self) -> None:
        digest = mac(self.KEY, "17600000001a").hex()
        event = {"event_time": "1760000000", "event_type": "1a", "event_hash": digest}
        assert code(self.answer(urlencode({"json": json.dumps({"event": event})}))) == "signature_missing"

    def test_a_time_is_judged_where_a_tolerance_is_set(self) -> None:
        body = urlencode({"json": self.event(NOW)})
        assert code(self.answer(body, now=NOW + 10**6)) == "verified"
        assert code(self.answer(body, now=NOW + 61, tolerance_seconds=60)) == "timestamp_stale"


class TestUnisenderGo:
    def body(self, text: str, key: str = "KEY") -> bytes:
        digest = hashlib.md5(text.replace("@", key).encode("latin-1")).hexdigest()
        return text.replace("@", digest).encode("latin-1")

    def answer(self, body: bytes, *secrets: str) -> str:
        return code(judge(scheme("unisender_go"), secrets or ["KEY"], request_to(URL, {}, body)))

    def test_the_digest_may_stand_anywhere_but_once(self) -> None:
        assert self.answer(self.body('{"events_by_user":[1], "auth" : "@"}')) == "verified"
        assert self.answer(self.body('{"auth":"@","again":"@"}')) == "signature_mismatch"
        assert self.answer(self.body('{"auth":"@","auth":"x"}')) == "signature_missing"
        assert self.answer(self.body('{"auth":"@"}').upper().replace(b"AUTH", b"auth")) == "signature_mismatch"
        assert self.answer(b'{"auth":"\\u0030' + b"0" * 31 + b'"}') == "signature_mismatch"
        assert self.answer(b'{"auth":"@"}', "KEY") == "signature_mismatch"

    def test_what_lengthening_the_hash_appends_is_refused(self) -> None:
        """MD5 of a key and a text can be carried on by anybody, behind the padding of the hash."""
        longer = self.body('{"auth":"@"}' + "\x80" + "\0" * 42 + '{"events_by_user":[]}')
        assert self.answer(longer) == "signature_missing"

    def test_a_body_to_sign_must_have_a_place_for_the_digest(self) -> None:
        for body in (b"{}", b"[]", b"x", b'{"auth":"short"}'):
            with pytest.raises(ValueError, match=r"\w"):
                sign(
                    load_preset("unisender_go").scheme, "k", request_to(URL, {}, body), url=URL, now_s=0, delivery_id=""
                )
