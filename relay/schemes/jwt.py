"""Signed tokens (JWT). PyJWT checks the signature; the claims are judged here, against the time that is passed in.

The algorithms are the preset's, and a token never chooses what kind of key it is checked with: HS256 only by a shared
secret, which no text that looks like public keys can be, and the others only by public keys of their own type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Part, Scheme, Wanted, fill, missing, refuse
from relay.schemes.encodings import DECODE, ENCODE, Encoding
from relay.schemes.key_sets import SetKey, holds_private, key_id, keys_by_id, looks_public, read_key_set
from relay.schemes.places import Place, Reader, Template, headers_of, utf8, with_header
from relay.schemes.public_keys import UNREADABLE, read_private_key
from relay.schemes.token_claims import ClaimRule, Times

#: A token that `sign` makes is good for this long.
SIGNED_SECONDS: Final = 300


class AnyLengthHmac(HMACAlgorithm):
    """The provider chose the secret: a short one is no reason for a warning at each request."""

    def check_key_length(self, key: Any) -> str | None:
        return None


class AnyLengthRsa(RSAAlgorithm):
    """As above."""

    def check_key_length(self, key: Any) -> str | None:
        return None


def any_length_jws() -> jwt.PyJWS:
    jws = jwt.PyJWS()
    for bits in ("256", "384", "512"):
        jws.unregister_algorithm(f"HS{bits}")
        jws.register_algorithm(f"HS{bits}", AnyLengthHmac(getattr(HMACAlgorithm, f"SHA{bits}")))
        jws.unregister_algorithm(f"RS{bits}")
        jws.register_algorithm(f"RS{bits}", AnyLengthRsa(getattr(RSAAlgorithm, f"SHA{bits}")))
    return jws


JWS: Final = any_length_jws()
#: What PyJWT raises for bytes that are no token, or not this key's.
NOT_GENUINE: Final = (jwt.PyJWTError, NotImplementedError, RecursionError, KeyError, *UNREADABLE)


def shared_secrets(reader: Reader, secrets: Sequence[str]) -> list[tuple[str, Any]]:
    """The secrets that are no public keys, each with its name."""
    shared: list[tuple[str, Any]] = []
    for index, secret in enumerate(secrets):
        usable = bool(secret) and not looks_public(secret)
        if usable:
            shared.append((f"secrets[{index}]", utf8(secret)))
        if reader.steps is not None:
            read = (
                f"read as utf8, {len(utf8(secret))} bytes" if usable else "is empty, or public keys: no shared secret"
            )
            reader.note(f"secrets[{index}]", read)
    return shared


def note_expected(reader: Reader, name: str, key: Any, token: bytes, algorithm: str) -> None:
    """The signature that a shared secret would have made, and the one that was sent."""
    if reader.steps is not None and isinstance(key, bytes):
        signed, _, sent = token.rpartition(b".")
        expected = ENCODE["base64url"](digest(key, signed, f"sha{algorithm[2:]}"))
        reader.note(f"signature by {name}", f"{expected.decode()}, and {sent.decode('ascii', 'replace')} was sent")


@dataclass(frozen=True, slots=True)
class HashClaim:
    """A claim that holds the SHA-256 of the body, or of the URL."""

    claim: str
    encoding: Encoding

    def holds(self, claims: Mapping[str, Any], content: bytes) -> bool | None:
        """Whether it is the content's; None when the token says nothing about it."""
        value = claims.get(self.claim)
        if not isinstance(value, str) or not value:
            return None
        return compare_digest(DECODE[self.encoding](utf8(value)) or b"", sha256(content).digest())

    def make(self, content: bytes) -> str:
        return ENCODE[self.encoding](sha256(content).digest()).decode()


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """A document of public keys on the provider's server. An option may choose among its URLs; the first is the usual.

    With `post` it is asked for by a JSON body of these texts, one key at a time (`{kid}`); else it is a set of keys.
    """

    urls: tuple[tuple[str, str], ...]
    chosen_by: str
    post: tuple[tuple[str, Template], ...]

    def url(self, options: Mapping[str, Any]) -> str | None:
        return dict(self.urls).get(options.get(self.chosen_by, self.urls[0][0]))

    def hosts(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        host = urlsplit(self.url(options) or "").hostname
        return (host,) if host else ()

    def wanted(self, reader: Reader, kid: str | None) -> tuple[Wanted, ...]:
        """Nothing when the source does not say what the document is asked for with."""
        url = self.url(reader.options)
        if url is None or kid == "":
            return ()
        if not self.post:
            return (Wanted(url, url, holds=utf8(kid or "")),)
        reader.values["kid"] = utf8(kid) if kid else None
        texts = {name: text.render(reader) for name, text in self.post}
        if None in texts.values():
            return ()
        body = json.dumps({name: (text or b"").decode("utf-8", "replace") for name, text in texts.items()})
        return (Wanted(f"{url}#{kid}", url, body.encode(), utf8(kid or "")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt(Scheme):
    """A signed token. `required` claims must be there; `claims` must be what the rules say.

    `body_hash` and `url_hash` are the claims that vouch for more than the token itself. The keys are the secrets, the
    option x509_certs (by key id), or what `document` names; configured ones come first.
    """

    token: Part
    algorithms: tuple[str, ...]
    required: tuple[str, ...] = ()
    claims: tuple[ClaimRule, ...] = ()
    times: Times
    body_hash: HashClaim | None = None
    url_hash: HashClaim | None = None
    document: KeyDocument | None = None
    sign_headers: tuple[tuple[str, str], ...] = ()

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        text = self.token.place.read(reader)
        if not text:
            return missing(self.token.place)
        token, header = self._header(text)
        reader.note(f"token in {self.token.place}", token)
        reader.note("its header", header)
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            return refuse("signature_mismatch", f"{self.token.place} holds no token of {', '.join(self.algorithms)}")
        keys = self._keys(reader, secrets, header, algorithm, now_s)
        if isinstance(keys, Rejected):
            return keys
        payload = self._payload(reader, token, algorithm, keys)
        if payload is None:
            tried = f"{len(keys)} key(s) that it could be made with"
            return refuse("signature_mismatch", f"the token in {self.token.place} is of none of {tried}")
        reader.claims = payload
        return self._judge_claims(reader, payload) or self.times.judge(reader, payload, now_s)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        algorithm, key = self._signing_key(secret)
        reader = Reader.of(self.headers, request, url, request.body, self.options)
        now = int(now_s)
        claims: dict[str, Any] = {"iat": now, "nbf": now, "exp": now + SIGNED_SECONDS, "jti": delivery_id}
        claims |= {name: "sample" for name in self.required if name not in claims}
        for rule in self.claims:
            claims |= rule.sample(reader)
        claims |= {self.body_hash.claim: self.body_hash.make(request.body)} if self.body_hash else {}
        claims |= {self.url_hash.claim: self.url_hash.make(utf8(url))} if self.url_hash else {}
        token = JWS.encode(json.dumps(claims).encode(), key, algorithm)
        for name, template in self.sign_headers:
            value = utf8(fill(template, {"token": token, "id": delivery_id}))
            request = request.but(headers=with_header(request.headers, name, value))
        return request

    def headers_judged(self) -> frozenset[bytes]:
        return headers_of([self.token.place]).union(*(rule.headers for rule in self.claims))

    @property
    def remote(self) -> bool:
        return self.document is not None

    def wanted(self, reader: Reader) -> tuple[Wanted, ...]:
        text = self.token.place.read(reader)
        if self.document is None or "x509_certs" in reader.options or not text:
            return ()
        header = self._header(text)[1]
        return self.document.wanted(reader, key_id(header)) if header.get("alg") in self.algorithms else ()

    def pinned(self, secrets: Sequence[str]) -> bool:
        return "x509_certs" in self.options or any(read_key_set(secret) for secret in secrets)

    def key_hosts(self, secrets: Sequence[str]) -> tuple[str, ...]:
        return self.document.hosts(self.options) if self.document and not self.pinned(secrets) else ()

    def options_wanting(self, secrets: Sequence[str]) -> tuple[str, ...]:
        places = [place for _, text in (self.document.post if self.document else ()) for place in text.parts]
        named = [place.text.partition(":") for place in places if isinstance(place, Place)]
        wanting = [name for kind, _, name in named if kind == "option" and name not in self.options]
        return () if self.pinned(secrets) else tuple(wanting)

    def key_problem(self, secret: str) -> str | None:
        if not secret:
            return "is empty"
        if holds_private(secret):
            return "is a private key, and only the public one belongs here"
        if looks_public(secret) or not self._shared_allowed():
            if not self._public_allowed():
                return f"is a public key, and {self.algorithms[0]} needs the shared secret"
            return None if read_key_set(secret) else "is neither a set of public keys (JWKS) nor one in PEM"
        return None

    def with_tolerance(self, seconds: float) -> Scheme | None:
        if self.times.max_age_seconds is not None:
            return replace(self, times=replace(self.times, max_age_seconds=seconds))
        return replace(self, times=replace(self.times, leeway_seconds=seconds)) if "exp" in self.required else None

    def _header(self, text: bytes) -> tuple[bytes, Mapping[str, Any]]:
        """The token and its header, of which nothing is believed yet; an empty one when it is no token."""
        token = self.token.find(text) or b""
        try:
            return token, JWS.get_unverified_header(token)
        except NOT_GENUINE:
            return token, {}

    def _keys(
        self, reader: Reader, secrets: Sequence[str], header: Mapping[str, Any], algorithm: str, now_s: float
    ) -> list[tuple[str, Any]] | Rejected:
        """What the token may have been made with: shared secrets for HS…, public keys for all others."""
        if algorithm.startswith("HS"):
            return shared_secrets(reader, secrets) or refuse(
                "key_unavailable", f"no secret for {algorithm} is configured"
            )
        found = self._configured(reader, secrets)
        if not found:
            fetched = self._fetched(reader, key_id(header))
            if isinstance(fetched, Rejected):
                return fetched
            found = fetched
        reader.note("public keys", ", ".join(f"{name} ({one.kid or 'no key id'})" for name, one in found[:20]))
        kid = key_id(header)
        return [(name, one.key) for name, one in found if one.serves(kid, algorithm, now_s)]

    def _configured(self, reader: Reader, secrets: Sequence[str]) -> list[tuple[str, SetKey]]:
        certs = reader.options.get("x509_certs")
        pinned = keys_by_id(certs) if isinstance(certs, Mapping) else []
        sets = [(f"secrets[{index}]", read_key_set(secret) or []) for index, secret in enumerate(secrets)]
        return [(name, one) for name, keys in [("x509_certs", pinned), *sets] for one in keys]

    def _fetched(self, reader: Reader, kid: str | None) -> list[tuple[str, SetKey]] | Rejected:
        wanted = self.document.wanted(reader, kid) if self.document and "x509_certs" not in reader.options else ()
        if kid == "":
            return []
        if not wanted:
            return refuse("key_unavailable", "no public key is configured, nor what is needed to fetch it")
        document = reader.documents.get(wanted[0].name)
        keys = None if document is None else read_key_set(document.decode("utf-8", "replace"))
        if keys is None:
            return refuse("key_unreachable", f"no public keys could be fetched from {wanted[0].url}")
        return [(wanted[0].url, one) for one in keys]

    def _payload(
        self, reader: Reader, token: bytes, algorithm: str, keys: Sequence[tuple[str, Any]]
    ) -> dict[str, Any] | None:
        """The claims, when one of the keys signed them."""
        for name, key in keys:
            try:
                payload = json.loads(JWS.decode(token, key, [algorithm]))
            except NOT_GENUINE:
                reader.note(f"{algorithm} with {name}", "did not make this token")
                note_expected(reader, name, key, token, algorithm)
                continue
            reader.note(f"{algorithm} with {name}", "made this token")
            reader.note("its claims", payload)
            return payload if isinstance(payload, dict) else None
        return None

    def _judge_claims(self, reader: Reader, claims: Mapping[str, Any]) -> Rejected | None:
        for name in self.required:
            if claims.get(name) in (None, ""):
                return refuse("signature_mismatch", f"the token has no claim {name}")
        for rule in self.claims:
            if refusal := rule.judge(reader, claims):
                return refusal
        return self._judge_hashes(reader, claims)

    def _judge_hashes(self, reader: Reader, claims: Mapping[str, Any]) -> Rejected | None:
        if self.url_hash and not self.url_hash.holds(claims, utf8(reader.url)):
            reader.note(f"{self.url_hash.claim} for {reader.url}", self.url_hash.make(utf8(reader.url)))
            return refuse("signature_mismatch", f"the token is for another URL ({self.url_hash.claim})")
        if self.body_hash is None:
            return None
        body = reader.request.body
        same = self.body_hash.holds(claims, body)
        if reader.steps is not None:
            reader.note(f"{self.body_hash.claim} of this body", self.body_hash.make(body))
        if same is None and body:
            return refuse("signature_mismatch", f"the token says nothing about the body (no {self.body_hash.claim})")
        return refuse("body_altered", f"{self.body_hash.claim} is another body's hash") if same is False else None

    def _signing_key(self, secret: str) -> tuple[str, Any]:
        if self._shared_allowed() and secret and not looks_public(secret):
            return self.algorithms[0], utf8(secret)
        if not self._public_allowed():
            raise ValueError(self.key_problem(secret) or "is not a shared secret")
        key = read_private_key(secret)
        for algorithm in self.algorithms:
            try:
                JWS.get_algorithm_by_name(algorithm).prepare_key(key)
            except NOT_GENUINE:
                continue
            return algorithm, key
        raise ValueError(f"is not a key for {', '.join(self.algorithms)}")

    def _shared_allowed(self) -> bool:
        return any(name.startswith("HS") for name in self.algorithms)

    def _public_allowed(self) -> bool:
        return any(not name.startswith("HS") for name in self.algorithms)
