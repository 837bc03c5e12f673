"""Sets of public keys as they are published: JWKS, one JWK, certificates by key id, PEM. Pure and total."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from relay.schemes.places import utf8
from relay.schemes.public_keys import UNREADABLE, PublicKey, known, read_public_key

#: More keys than this in one set are not looked at.
KEYS_MAX: Final = 100
#: The public members of a JWK, by its type: private ones are never read.
MEMBERS: Final[dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]]] = {
    "RSA": (RSAAlgorithm.from_jwk, ("kty", "n", "e")),
    "EC": (ECAlgorithm.from_jwk, ("kty", "crv", "x", "y")),
    "OKP": (OKPAlgorithm.from_jwk, ("kty", "crv", "x")),
}
#: The longest text of a shared secret of 32 bytes (in hex), and the longest that a raw Ed25519 key may be written in.
RAW_CHARACTERS_MAX: Final = 64
#: The private part of a JWK.
PRIVATE_MEMBER: Final = re.compile(r'"d"\s*+:')


@dataclass(frozen=True, slots=True)
class SetKey:
    """One key. `kid` and `algorithm` are what the set says of it, None where it says nothing."""

    key: PublicKey
    kid: str | None = None
    algorithm: str | None = None
    expired_s: float | None = None

    def serves(self, kid: str | None, algorithm: str, now_s: float) -> bool:
        """Whether a token that names this key id and algorithm may be the key's."""
        return (
            (kid is None or self.kid in (None, kid))
            and self.algorithm in (None, algorithm)
            and (self.expired_s is None or now_s < self.expired_s)
        )


def read_key_set(text: str) -> list[SetKey] | None:
    """The keys that can be used; None when the text is no set at all."""
    if not text.lstrip().startswith("{"):
        key = read_public_key(text) if text else None
        return [SetKey(key)] if key else None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return keys_of(document)


def keys_of(document: Mapping[str, Any]) -> list[SetKey] | None:
    """Of {"keys": [...]}, {"key": {...}} (Plaid), a JWK, or {kid: certificate or key} (Google's other form)."""
    if isinstance(listed := document.get("keys"), list):
        return [key for jwk in listed[:KEYS_MAX] if (key := read_jwk(jwk))]
    jwk = document.get("key", document)
    if isinstance(jwk, Mapping) and "kty" in jwk:
        key = read_jwk(jwk)
        return [key] if key else None
    return keys_by_id(document) or None


def keys_by_id(texts: Mapping[str, Any]) -> list[SetKey]:
    pairs = [(kid, text) for kid, text in texts.items() if isinstance(text, str)][:KEYS_MAX]
    return [SetKey(key, kid) for kid, text in pairs if (key := read_public_key(text))]


def read_jwk(jwk: Any) -> SetKey | None:
    """A public key for signatures; None for any other."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in MEMBERS or jwk.get("use", "sig") != "sig":
        return None
    read, members = MEMBERS[jwk["kty"]]
    try:
        key = known(read({name: jwk[name] for name in members}))
    except (jwt.PyJWTError, KeyError, AttributeError, *UNREADABLE):
        return None
    kid, algorithm, expired = jwk.get("kid"), jwk.get("alg"), jwk.get("expired_at")
    if key is None:
        return None
    return SetKey(
        key,
        kid if isinstance(kid, str) else None,
        algorithm if isinstance(algorithm, str) else None,
        float(expired) if isinstance(expired, int) and abs(expired) < 1e12 else None,
    )


def looks_public(secret: str) -> bool:
    """Whether a secret can only be meant as public keys, so that it is never a shared secret: anybody may know it.

    Also a PEM without its lines BEGIN and END. A raw key of 32 bytes looks like any secret of that size.
    """
    written = "-----BEGIN" in secret or '"kty"' in secret
    return written or (len(secret) > RAW_CHARACTERS_MAX and read_public_key(secret) is not None)


def holds_private(secret: str) -> bool:
    return "PRIVATE KEY-----" in secret or (looks_public(secret) and PRIVATE_MEMBER.search(secret) is not None)


def key_id(header: Mapping[str, Any]) -> str | None:
    """The key id that a token names; an unusable one is "", which is no key's."""
    kid = header.get("kid")
    if kid is None:
        return None
    usable = isinstance(kid, str) and len(utf8(kid)) <= 200 and kid.isprintable()
    return kid if usable else ""
