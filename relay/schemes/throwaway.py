"""Key pairs for trying a source whose provider keeps its private key to itself. Never a provider's own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from relay.schemes.asymmetric import Asymmetric
from relay.schemes.base import Scheme
from relay.schemes.jwt import Jwt
from relay.schemes.public_keys import KeyForm, PrivateKey, PublicKey

RSA_BITS: Final = 2048
#: A token's algorithm → what kind of key signs it.
TOKEN_ALGORITHMS: Final = {"RS256": "rsa-sha256", "ES256": "ecdsa-sha256"}


@dataclass(frozen=True, slots=True)
class Pair:
    """`private` is a PEM to sign with, `public` the text that goes into the source's secrets."""

    private: str
    public: str


def make_pair(scheme: Scheme) -> Pair | None:
    """A new pair, in the form of this scheme's secrets; None when its secrets are no public keys."""
    if isinstance(scheme, Asymmetric) and scheme.certificate is None:
        key = make_key(scheme.algorithm)
        prefix = next(iter(scheme.keys.strip), "")
        return Pair(private_text(key), prefix + public_text(key.public_key(), scheme.keys.form))
    if isinstance(scheme, Jwt) and scheme.algorithms and scheme.algorithms[0] in TOKEN_ALGORITHMS:
        key = make_key(TOKEN_ALGORITHMS[scheme.algorithms[0]])
        return Pair(private_text(key), public_text(key.public_key(), "pem"))
    return None


def signing_text(scheme: Scheme, secrets: Sequence[str], pem: str) -> str:
    """What `sign` wants as its secret. Where the content holds the secret too (PayPal), that stands before the key."""
    needs_both = isinstance(scheme, Asymmetric) and scheme.certificate is not None and secrets
    return f"{secrets[0]}\n{pem}" if needs_both else pem


def make_key(algorithm: str) -> PrivateKey:
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ecdsa-sha256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, RSA_BITS)


def private_text(key: PrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def public_text(key: PublicKey, form: KeyForm) -> str:
    if isinstance(key, ed25519.Ed25519PublicKey) and form in ("raw_hex", "raw_base64"):
        raw = key.public_bytes_raw()
        return raw.hex() if form == "raw_hex" else b64encode(raw).decode()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    if form == "spki_base64":
        return b64encode(key.public_bytes(serialization.Encoding.DER, info)).decode()
    return key.public_bytes(serialization.Encoding.PEM, info).decode().strip()
