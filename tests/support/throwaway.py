"""Key pairs and certificates for tests, made once per process, and what a source must say to believe them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from relay.models import Request
from relay.presets import Preset
from relay.schemes.asymmetric import Asymmetric
from relay.schemes.jwt import Jwt
from relay.verify import Scheme, sign
from tests.support.requests import NOW, URL

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
#: One of these is a key of every scheme with a shared secret: a Standard Webhooks key, hex, base64, any text.
SHARED = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "00ff" * 16, base64.b64encode(b"0123456789abcdef").decode(), "a b"]


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key(number: int = 0) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> str:
    encryption = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def public_pem(key: PrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_der(key: PrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def public_raw(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def jwk(key: PrivateKey, kid: str = "k1", **more: Any) -> dict[str, Any]:
    """A public key as JWKS have it, written here and not by a JWT library."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e), **more}
    assert isinstance(public, ec.EllipticCurvePublicKey)
    point = public.public_numbers()
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": number(point.x, 32), "y": number(point.y, 32), **more}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


def number(value: int, size: int | None = None) -> str:
    raw = value.to_bytes(size or (value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def certificate(key: PrivateKey, name: str, *, first_s: float = NOW - 86400, last_s: float = NOW + 86400) -> str:
    """A self-signed certificate (PEM) with this common name."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(first_s, UTC))
        .not_valid_after(datetime.fromtimestamp(last_s, UTC) + timedelta(seconds=0))
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True)
class Signed:
    """A request, and the scheme and secrets of a source that should believe it."""

    request: Request
    scheme: Scheme
    secrets: list[str]


def sign_sample(
    preset: Preset, bare: Request, *, url: str = URL, now_s: float = NOW, delivery_id: str = "id1"
) -> Signed:
    """A bare sample signed by the scheme itself, with a throwaway key where the provider's is not to be had."""
    scheme, sign_with, secrets = believing(preset)
    request = sign(scheme, sign_with, bare, url=url, now_s=now_s, delivery_id=delivery_id)
    if preset.name == "sns":
        body = json.loads(request.body)
        secrets = [body["TopicArn"]]
        scheme = replace(scheme, options={"certs": {body["SigningCertURL"]: certificate(rsa_key(), "sns")}})
    return Signed(request, scheme, secrets)


def believing(preset: Preset) -> tuple[Scheme, str, list[str]]:
    """The scheme with options, what to sign with, and the secrets that vouch for it."""
    scheme = preset.scheme
    options: Mapping[str, Any] = {option.name: "sample" for option in preset.options if option.required}
    if scheme.open:
        return scheme, "", []
    if preset.name == "paypal":
        url = dict(scheme.sign_headers)["Paypal-Cert-Url"]  # type: ignore[attr-defined]  # it is asymmetric
        pinned = {"certs": {url: certificate(rsa_key(), "test")}}
        return replace(scheme, options=pinned), "WH-1" + private_pem(rsa_key()), ["WH-1"]
    if preset.name == "sns":
        return scheme, private_pem(rsa_key()), []
    if isinstance(scheme, Asymmetric):
        key = key_for(scheme.algorithm)
        return scheme, private_pem(key), [public_pem(key)]
    if isinstance(scheme, Jwt) and not scheme.algorithms[0].startswith("HS"):
        key = rsa_key() if scheme.algorithms[0].startswith("RS") else ec_key()
        return replace(scheme, options=options), private_pem(key), [public_pem(key)]
    secret = next(secret for secret in SHARED if scheme.key_problem(secret) is None)
    return replace(scheme, options=options), secret, [secret]


def key_for(algorithm: str) -> PrivateKey:
    return ed_key() if algorithm == "ed25519" else ec_key() if re.match("ec", algorithm) else rsa_key()
