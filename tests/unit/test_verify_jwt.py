"""Signed tokens, made here by hand and with no JWT library: keys, claims, times, and what they vouch for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import REJECTIONS, Rejected
from relay.models import Request
from relay.presets import load_presets
from relay.schemes.reading import read_scheme
from relay.schemes.tables import Table
from relay.verify import Scheme, Verified, verify, wanted
from tests.support.requests import NOW, URL, code, judge, request_to
from tests.support.throwaway import certificate, ec_key, jwk, jwks, private_pem, public_pem, rsa_key

PRESETS = load_presets()
SECRET = "a shared secret"
BODY = b'{"id":"1"}'
GOOGLE_KEYS = "https://www.googleapis.com/oauth2/v3/certs"
GOOGLE = {"audience": "https://relay.example.test/in/pubsub", "email": "push@demo.iam.gserviceaccount.com"}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signing_input(header: object, claims: object) -> bytes:
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims))
    return ".".join(b64url(part) for part in parts).encode()


def hs256(claims: object, secret: str = SECRET, header: object = None) -> str:
    signed = signing_input(header or {"alg": "HS256", "typ": "JWT"}, claims)
    return f"{signed.decode()}.{b64url(hmac.digest(secret.encode(), signed, 'sha256'))}"


def es256(claims: object, key: ec.EllipticCurvePrivateKey, kid: object = "k1", **header: Any) -> str:
    signed = signing_input({"alg": "ES256", **({} if kid is None else {"kid": kid}), **header}, claims)
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return f"{signed.decode()}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def rs256(claims: object, key: rsa.RSAPrivateKey, kid: object = "k1", **header: Any) -> str:
    signed = signing_input({"alg": "RS256", **({} if kid is None else {"kid": kid}), **header}, claims)
    return f"{signed.decode()}.{b64url(key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))}"


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def plaid_request(token: str, body: bytes = BODY) -> Request:
    return request_to(URL, {"Plaid-Verification": token}, body)


def plaid_claims(**more: Any) -> dict[str, Any]:
    return {"iat": NOW, "request_body_sha256": sha(BODY)} | more


def plaid(token: str, *secrets: str, now: float = NOW, body: bytes = BODY) -> str:
    return code(judge(PRESETS["plaid"].scheme, secrets, plaid_request(token, body), now=now))


def google(claims: Mapping[str, Any], *, options: Mapping[str, Any] = GOOGLE, now: float = NOW) -> str:
    scheme = replace(PRESETS["google_pubsub_push"].scheme, options=options)
    request = request_to(URL, {"Authorization": "Bearer " + rs256(claims, rsa_key())}, BODY)
    return code(judge(scheme, [jwks(jwk(rsa_key()))], request, now=now))


def google_claims(**more: Any) -> dict[str, Any]:
    claims = {"iss": "https://accounts.google.com", "aud": GOOGLE["audience"], "email": GOOGLE["email"]}
    return claims | {"email_verified": True, "iat": NOW, "exp": NOW + 3600} | more


class TestKeys:
    @pytest.mark.parametrize(
        "secret",
        [
            jwks(jwk(ec_key())),
            jwks(jwk(rsa_key(), "k1"), jwk(ec_key(1), "k2"), jwk(ec_key())),
            json.dumps(jwk(ec_key())),
            json.dumps({"key": jwk(ec_key()), "request_id": "x"}),
            public_pem(ec_key()),
            certificate(ec_key(), "x"),
            json.dumps({"k1": certificate(ec_key(), "x")}),
            jwks(jwk(ec_key(), use="sig", alg="ES256")),
        ],
    )
    def test_forms_of_public_keys(self, secret: str) -> None:
        assert PRESETS["plaid"].scheme.key_problem(secret) is None
        assert plaid(es256(plaid_claims(), ec_key()), secret) == "verified"
        assert plaid(es256(plaid_claims(), ec_key(2)), secret) == "signature_mismatch"

    @pytest.mark.parametrize(
        "secret",
        [
            jwks(jwk(ec_key(), "other")),
            jwks(jwk(ec_key(), use="enc"), jwk(ec_key(), "k2")),
            jwks(jwk(ec_key(), alg="ES384")),
            jwks(jwk(ec_key(), expired_at=NOW - 1)),
            jwks(),
            public_pem(rsa_key()),
        ],
    )
    def test_keys_that_do_not_serve(self, secret: str) -> None:
        assert plaid(es256(plaid_claims(), ec_key()), secret) in ("signature_mismatch", "key_unavailable")

    def test_a_key_that_expires_later(self) -> None:
        token = es256(plaid_claims(), ec_key())
        assert plaid(token, jwks(jwk(ec_key(), expired_at=NOW + 1))) == "verified"
        assert plaid(token, jwks(jwk(ec_key(), expired_at=None))) == "verified"

    def test_what_is_no_key_is_said_clearly(self) -> None:
        problem = PRESETS["plaid"].scheme.key_problem
        assert problem("") == "is empty"
        assert "JWKS" in (problem("plain text") or "")
        assert "JWKS" in (problem('{"keys": []}') or "")
        assert "JWKS" in (problem("[" * 99_999) or "")
        assert "private" in (problem(private_pem(ec_key())) or "")
        assert "private" in (problem(jwks(jwk(ec_key(), d="AAAA"))) or "")
        assert "shared secret" in (PRESETS["vonage"].scheme.key_problem(public_pem(rsa_key())) or "")

    def test_no_key_at_all(self) -> None:
        token = es256(plaid_claims(), ec_key())
        for secrets in ([], [""], ["nonsense"], ["{}"]):
            assert plaid(token, *secrets) == "key_unavailable"


class TestAlgorithmConfusion:
    """A token never chooses what kind of key it is checked with."""

    def fusionauth(self, token: str, *secrets: str) -> str:
        request = request_to(URL, {"X-FusionAuth-Signature-JWT": token}, BODY)
        return code(judge(PRESETS["fusionauth"].scheme, secrets, request))

    @property
    def claims(self) -> dict[str, str]:
        return {"request_body_sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()}

    def test_each_algorithm_with_its_own_kind_of_key(self) -> None:
        keys = [SECRET, public_pem(rsa_key()), jwks(jwk(ec_key()))]
        for token in (hs256(self.claims), rs256(self.claims, rsa_key()), es256(self.claims, ec_key())):
            assert self.fusionauth(token, *keys) == "verified"

    @pytest.mark.parametrize(
        "public",
        [
            *(public_pem(rsa_key()), jwks(jwk(rsa_key())), json.dumps(jwk(rsa_key()))),
            *("".join(public_pem(key).strip().splitlines()[1:-1]) for key in (rsa_key(), ec_key())),
            "\ufeff" + jwks(jwk(rsa_key())),
        ],
        ids=["pem", "jwks", "jwk", "rsa without begin and end", "ec without begin and end", "jwks with a BOM"],
    )
    def test_a_public_key_is_no_shared_secret(self, public: str) -> None:
        variants = [public, public.strip(), public + "\n"]
        for text in variants:
            forged = hs256(self.claims, text)
            assert self.fusionauth(forged, public) == "key_unavailable"
            assert self.fusionauth(forged, public, SECRET) == "signature_mismatch"

    def test_a_shared_secret_is_no_public_key(self) -> None:
        assert self.fusionauth(rs256(self.claims, rsa_key()), SECRET) == "key_unavailable"

    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS384", "PS256", "hs256", None, 7, ["HS256"], {}])
    def test_an_algorithm_that_is_not_the_presets(self, alg: object) -> None:
        for signature in ("", hs256({}).rpartition(".")[2]):
            token = signing_input({"alg": alg}, self.claims).decode() + "." + signature
            assert self.fusionauth(token, SECRET) == "signature_mismatch"

    def test_an_embedded_key_is_not_looked_at(self) -> None:
        own = jwk(ec_key(1))
        for more in ({"jwk": own}, {"jku": "https://evil.test/"}, {"x5u": "https://evil.test/"}):
            assert plaid(es256(plaid_claims(), ec_key(1), **more), jwks(jwk(ec_key()))) == "signature_mismatch"


class TestClaims:
    def test_google(self) -> None:
        assert google(google_claims()) == "verified"
        assert google(google_claims(iss="accounts.google.com")) == "verified"
        assert google(google_claims(aud=["x", GOOGLE["audience"]])) == "verified"

    @pytest.mark.parametrize(
        "wrong",
        [
            *({"iss": "https://accounts.google.com.evil.test"}, {"iss": None}, {"aud": "https://relay.example.test"}),
            *({"aud": []}, {"aud": None}, {"email": "other@demo.iam.gserviceaccount.com"}, {"email": ""}),
            *({"email": [GOOGLE["email"]]}, {"email_verified": False}, {"email_verified": "true"}),
            *({"email_verified": 1}, {"email_verified": None}, {"exp": None}),
        ],
    )
    def test_google_with_another_claim(self, wrong: dict[str, Any]) -> None:
        assert google(google_claims(**wrong)) == "signature_mismatch"

    def test_an_option_that_is_not_set_passes_nothing(self) -> None:
        assert google(google_claims(), options={"email": GOOGLE["email"]}) == "key_unavailable"

    def test_livekits_issuer_is_judged_once_it_is_known(self) -> None:
        body_hash = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
        token = hs256({"iss": "key1", "exp": NOW + 60, "sha256": body_hash})
        request = request_to(URL, {"Authorization": token}, BODY)
        scheme = PRESETS["livekit"].scheme
        assert code(judge(scheme, [SECRET], request)) == "verified"
        assert code(judge(replace(scheme, options={"api_key": "key1"}), [SECRET], request)) == "verified"
        assert code(judge(replace(scheme, options={"api_key": "key2"}), [SECRET], request)) == "signature_mismatch"

    def test_mondays_audience_is_the_url_without_its_query(self) -> None:
        token = hs256({"aud": URL, "exp": NOW + 60})
        for url, expected in ((URL, "verified"), (f"{URL}?a=1", "verified"), (f"{URL}2", "signature_mismatch")):
            request = request_to(url, {"Authorization": token}, BODY)
            assert code(judge(PRESETS["monday"].scheme, [SECRET], request, url)) == expected

    def test_the_delivery_id_is_a_claim(self) -> None:
        claims = {"iat": NOW, "jti": "j-1", "payload_hash": sha(BODY)}
        request = request_to(URL, {"Authorization": f"bearer {hs256(claims)}"}, BODY)
        assert judge(PRESETS["vonage"].scheme, [SECRET], request) == Verified("j-1", None)

    @given(st.recursive(st.none() | st.floats() | st.text(max_size=5), lambda one: st.lists(one, max_size=3)))
    @settings(max_examples=60, deadline=None)
    def test_no_claim_makes_it_raise(self, value: object) -> None:
        for name in google_claims():
            assert google(google_claims(**{name: value})) in {"verified", *REJECTIONS}
        for claims in (value, {"iat": value}, {"iat": NOW, "payload_hash": value, "jti": value}):
            request = request_to(URL, {"Authorization": f"Bearer {hs256(claims)}"}, BODY)
            answer = judge(PRESETS["vonage"].scheme, [SECRET], request)
            assert isinstance(answer, Rejected)


class TestTimes:
    def vonage(self, now: float = NOW, **claims: Any) -> str:
        token = hs256({"payload_hash": sha(BODY), **claims})
        return code(
            judge(
                PRESETS["vonage"].scheme, [SECRET], request_to(URL, {"Authorization": f"Bearer {token}"}, BODY), now=now
            )
        )

    def test_the_age(self) -> None:
        assert self.vonage(iat=NOW - 300) == "verified"
        assert self.vonage(iat=NOW - 300, now=NOW + 0.9) == "verified"
        assert self.vonage(iat=NOW - 301) == "timestamp_stale"
        assert self.vonage(iat=NOW + 60) == "verified"
        assert self.vonage(iat=NOW + 61) == "timestamp_stale"
        assert self.vonage() == "signature_mismatch"

    def test_expiry_and_leeway(self) -> None:
        assert google(google_claims(exp=NOW)) == "verified"
        assert google(google_claims(exp=NOW - 9)) == "verified"
        assert google(google_claims(exp=NOW - 10)) == "timestamp_stale"
        assert self.vonage(iat=NOW, exp=NOW + 1) == "verified"
        assert self.vonage(iat=NOW, exp=NOW) == "timestamp_stale"

    def test_the_skew_is_told(self) -> None:
        token = hs256({"payload_hash": sha(BODY), "iat": NOW - 301})
        request = request_to(URL, {"Authorization": f"Bearer {token}"}, BODY)
        answer = judge(PRESETS["vonage"].scheme, [SECRET], request)
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.skew_seconds) == ("timestamp_stale", 301)

    def test_not_before(self) -> None:
        assert self.vonage(iat=NOW, nbf=NOW) == "verified"
        assert self.vonage(iat=NOW, nbf=NOW + 1) == "timestamp_stale"

    @pytest.mark.parametrize("time", ["1760000000", True, [], {}, 1e300, -(10**40), 10**4000])
    def test_what_is_no_time(self, time: object) -> None:
        assert self.vonage(iat=time) == "timestamp_stale"
        assert self.vonage(iat=NOW, exp=time) == "timestamp_stale"

    def test_a_tolerance_of_its_own(self) -> None:
        wider = PRESETS["vonage"].scheme.with_tolerance(1000)
        assert wider is not None
        token = hs256({"payload_hash": sha(BODY), "iat": NOW - 900})
        request = request_to(URL, {"Authorization": f"Bearer {token}"}, BODY)
        assert code(judge(wider, [SECRET], request)) == "verified"
        assert PRESETS["monday"].scheme.with_tolerance(5) is not None
        assert PRESETS["netlify"].scheme.with_tolerance(5) is None


class TestBodies:
    def test_an_altered_body_is_told_apart(self) -> None:
        keys = jwks(jwk(ec_key()))
        token = es256(plaid_claims(), ec_key())
        assert plaid(token, keys, body=BODY + b" ") == "body_altered"
        assert plaid(es256(plaid_claims(), ec_key(1)), keys, body=BODY + b" ") == "signature_mismatch"
        assert plaid(es256({"iat": NOW}, ec_key()), keys) == "signature_mismatch"
        assert plaid(es256(plaid_claims(request_body_sha256="zz"), ec_key()), keys) == "body_altered"

    def test_a_token_that_says_nothing_about_the_body(self) -> None:
        token = hs256({"iat": NOW})
        for body, expected in ((b"", "verified"), (b"{}", "signature_mismatch")):
            request = request_to(URL, {"Authorization": f"Bearer {token}"}, body)
            assert code(judge(PRESETS["vonage"].scheme, [SECRET], request)) == expected


OPTIONS = {"client_id": "cid", "client_secret": "s3cret"}


class TestFetchedKeys:
    def plaid(self, document: bytes | None, token: str | None = None, options: Mapping[str, str] = OPTIONS) -> str:
        scheme = replace(PRESETS["plaid"].scheme, options=options)
        request = plaid_request(token or es256(plaid_claims(), ec_key()))
        asked = wanted(scheme, request, url=URL, body=BODY)
        documents = {} if document is None else {one.name: document for one in asked}
        answer = verify(scheme, [], request, url=URL, body=BODY, now_s=NOW, documents=documents)
        return code(answer)

    def test_plaid_asks_for_one_key(self) -> None:
        scheme = replace(PRESETS["plaid"].scheme, options=OPTIONS)
        (asked,) = wanted(scheme, plaid_request(es256({}, ec_key(), 'k"1')), url=URL, body=BODY)
        assert asked.url == "https://production.plaid.com/webhook_verification_key/get"
        assert json.loads(asked.body or b"") == {"client_id": "cid", "secret": "s3cret", "key_id": 'k"1'}
        assert asked.name.endswith('#k"1')
        assert "s3cret" not in asked.name
        sandbox = replace(scheme, options={**OPTIONS, "environment": "sandbox"})
        (asked,) = wanted(sandbox, plaid_request(es256({}, ec_key())), url=URL, body=BODY)
        assert asked.url == "https://sandbox.plaid.com/webhook_verification_key/get"

    def test_plaids_answer(self) -> None:
        good = {"key": jwk(ec_key(), alg="ES256", use="sig", created_at=1, expired_at=None), "request_id": "r"}
        assert self.plaid(json.dumps(good).encode()) == "verified"
        assert self.plaid(json.dumps({"key": jwk(ec_key(1))}).encode()) == "signature_mismatch"
        assert self.plaid(json.dumps({"key": jwk(ec_key(), "k2")}).encode()) == "signature_mismatch"
        for garbage in (None, b"", b"<html>", b"\xff", b"[]", b'{"error_code":"X"}', b"[" * 99_999):
            assert self.plaid(garbage) == "key_unreachable", garbage

    @pytest.mark.parametrize("options", [{}, {"client_id": "cid"}, {**OPTIONS, "environment": "elsewhere"}])
    def test_without_what_it_is_asked_with(self, options: dict[str, str]) -> None:
        assert self.plaid(b"{}", options=options) == "key_unavailable"

    @pytest.mark.parametrize("kid", ["", "x" * 201, "a\nb", 7, [], "\ud800"])
    def test_an_odd_key_id_is_never_asked_for(self, kid: object) -> None:
        token = es256(plaid_claims(), ec_key(), kid)
        assert self.plaid(json.dumps({"key": jwk(ec_key())}).encode(), token) == "signature_mismatch"
        scheme = replace(PRESETS["plaid"].scheme, options=OPTIONS)
        assert wanted(scheme, plaid_request(token), url=URL, body=BODY) == ()

    def google(self, document: str | None, kid: str = "k1") -> str:
        scheme = replace(PRESETS["google_pubsub_push"].scheme, options=GOOGLE)
        token = rs256(google_claims(), rsa_key(), kid)
        request = request_to(URL, {"Authorization": f"Bearer {token}"}, BODY)
        (asked,) = wanted(scheme, request, url=URL, body=BODY)
        assert (asked.url, asked.name, asked.body, asked.holds) == (GOOGLE_KEYS, GOOGLE_KEYS, None, kid.encode())
        documents = {} if document is None else {GOOGLE_KEYS: document.encode()}
        return code(judge(scheme, [], request, documents=documents))

    def test_googles_set(self) -> None:
        keys = jwks(jwk(rsa_key(1), "k0"), jwk(rsa_key()))
        assert self.google(keys) == "verified"
        assert self.google(keys, "k0") == "signature_mismatch"
        assert self.google(keys, "unknown") == "signature_mismatch"
        assert self.google(None) == "key_unreachable"
        assert self.google("<html>") == "key_unreachable"

    def test_pinned_certificates_come_first(self) -> None:
        options = {**GOOGLE, "x509_certs": {"k1": certificate(rsa_key(), "x")}}
        scheme = replace(PRESETS["google_pubsub_push"].scheme, options=options)
        for kid, expected in (("k1", "verified"), ("k2", "signature_mismatch")):
            request = request_to(URL, {"Authorization": f"Bearer {rs256(google_claims(), rsa_key(), kid)}"}, BODY)
            assert wanted(scheme, request, url=URL, body=BODY) == ()
            assert code(judge(scheme, [], request)) == expected

    def test_nothing_is_fetched_for_what_is_no_token(self) -> None:
        scheme = replace(PRESETS["google_pubsub_push"].scheme, options=GOOGLE)
        for text in ("", "Bearer", "Bearer x.y.z", "Basic eA==", f"Bearer {hs256({})}", f"Bearer {'a' * 17000}"):
            request = request_to(URL, {"Authorization": text}, BODY)
            assert wanted(scheme, request, url=URL, body=BODY) == ()


HEADERS: list[Any] = [
    *(b"", b"null", b"[]", b"\xff", b"{", b'{"alg":', b"[" * 9000, b'{"a":' * 3000, b'{"alg":"HS256","alg":7}'),
    *({"alg": "HS256", "crit": ["x"]}, {"alg": "HS256", "crit": 7}, {"alg": "HS256", "b64": False}),
    *({"alg": "HS256", "b64": False, "crit": ["b64"]}, {"alg": "HS256", "kid": 7}, {"alg": "HS256", "x": 10**400}),
]


class TestTokensThatAreNone:
    @pytest.mark.parametrize("header", HEADERS, ids=lambda header: str(header)[:30])
    def test_odd_headers(self, header: object) -> None:
        token = hs256({"iat": NOW, "payload_hash": sha(BODY)}, header=header or b" ")
        request = request_to(URL, {"Authorization": f"Bearer {token}"}, BODY)
        answer = judge(PRESETS["vonage"].scheme, [SECRET], request)
        assert code(answer) in ("signature_mismatch", "verified")
        assert code(answer) == "signature_mismatch" or header == {"alg": "HS256", "x": 10**400}

    @pytest.mark.parametrize("text", ["x", "Bearer ", "Bearer a.b", "Bearer ...", "Bearer a.b.c.d", "Bearer é.b.c"])
    def test_odd_texts(self, text: str) -> None:
        request = request_to(URL, {"Authorization": text}, BODY)
        assert isinstance(judge(PRESETS["vonage"].scheme, [SECRET], request), Rejected)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, text: bytes) -> None:
        for value in (text, b"Bearer " + text, b"Bearer " + b".".join([base64.urlsafe_b64encode(text)] * 3)):
            request = request_to(URL, [(b"Authorization", value)], BODY)
            assert isinstance(judge(PRESETS["vonage"].scheme, [SECRET], request), Rejected)


def test_a_scheme_of_ones_own_with_keys_by_url() -> None:
    """What Microsoft Graph's rich notifications and Wix need: a token in the body, claims, and keys at a URL."""
    table = {
        "kind": "jwt",
        "algorithms": ["RS256"],
        "required": ["exp"],
        "delivery_id": "jwt:jti",
        "token": {"from": "json:validationTokens.0"},
        "claims": {"azp": "0bf30f3b-4a52-48df-9a82-234910c4a086"},
        "keys": {"url": "https://login.microsoftonline.com/common/discovery/v2.0/keys"},
    }
    scheme: Scheme = read_scheme(Table(table, None), lambda name: pytest.fail(name))
    claims = {"azp": "0bf30f3b-4a52-48df-9a82-234910c4a086", "exp": NOW + 60, "jti": "id9"}
    body = json.dumps({"validationTokens": [rs256(claims, rsa_key())]}).encode()
    request = request_to(URL, {}, body)
    (asked,) = wanted(scheme, request, url=URL, body=body)
    assert judge(scheme, [], request, documents={asked.name: jwks(jwk(rsa_key())).encode()}) == Verified("id9", None)
