"""Signatures by the provider's private key. Any of the signatures sent and any of the public keys may match.

The public keys are the source's secrets, or the key is a certificate whose URL the request names (PayPal). Such a URL
must match the preset's pattern, and is fetched over TLS from that host alone: this, with the certificate's dates and
subject, is what it is trusted for. Its chain is not followed to a root: the provider publishes none to pin, and any
public authority's root would prove less than the host that served it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.errors import Rejected
from relay.schemes.base import Wanted, missing, refuse
from relay.schemes.places import Place, Reader, utf8
from relay.schemes.public_keys import (
    FORMS,
    KeyForm,
    PublicAlgorithm,
    PublicKey,
    any_genuine,
    certificate_key,
    certificate_problem,
    fits,
    make_signature,
    public_key_problem,
    read_certificate,
    read_private_key,
    read_public_key,
)
from relay.schemes.signed import Candidate, Signed

#: More signatures than this are not tried: each costs some 100 µs, and Ed25519 hashes the whole body for each.
PUBLIC_SIGNATURES_MAX: Final = 6
PEM_BEGINS: Final = "-----BEGIN"


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """How a configured secret becomes a public key."""

    form: KeyForm
    strip: tuple[str, ...] = ()

    def bare(self, secret: str) -> str:
        prefix = next((prefix for prefix in self.strip if secret.startswith(prefix)), "")
        return secret[len(prefix) :]


@dataclass(frozen=True, slots=True)
class CertificateUrl:
    """Where a request names its certificate, which URLs are the provider's own, and whose certificates they hold.

    The source's option `certs` (URL → PEM) comes first; when it is there, nothing is fetched.
    """

    place: Place
    allow: re.Pattern[bytes]
    common_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def wanted(self, reader: Reader) -> tuple[Wanted, ...]:
        url = self.place.read(reader)
        if "certs" in reader.options or not url or not self.allow.fullmatch(url):
            return ()
        return (Wanted(url.decode("ascii", "replace"), url.decode("ascii", "replace")),)

    def key(self, reader: Reader, now_s: float) -> PublicKey | Rejected:
        url = self.place.read(reader)
        reader.note(str(self.place), url)
        if not url:
            return missing(self.place)
        if not self.allow.fullmatch(url):
            return refuse("signature_mismatch", f"{self.place} is not the provider's own, and is never fetched")
        name = url.decode("ascii", "replace")
        if "certs" in reader.options:
            return self._pinned(reader.options["certs"], name)
        if name not in reader.documents:
            return refuse("key_unreachable", f"the certificate that {self.place} names could not be fetched")
        return self._fetched(reader, reader.documents[name], now_s)

    def _pinned(self, certs: Any, url: str) -> PublicKey | Rejected:
        text = certs.get(url) if isinstance(certs, Mapping) else None
        certificate = read_certificate(utf8(text)) if isinstance(text, str) else None
        key = certificate_key(certificate) if certificate else None
        return key or refuse("key_unavailable", f"the option certs has no readable certificate for {url}")

    def _fetched(self, reader: Reader, document: bytes, now_s: float) -> PublicKey | Rejected:
        certificate = read_certificate(document)
        key = certificate_key(certificate) if certificate else None
        if certificate is None or key is None:
            return refuse("key_unreachable", "what was fetched is no certificate")
        reader.note("the certificate's subject", certificate.subject.rfc4514_string())
        problem = certificate_problem(certificate, now_s, self.common_names)
        return refuse("signature_mismatch", f"the certificate {problem}") if problem else key


@dataclass(frozen=True, slots=True, kw_only=True)
class Asymmetric(Signed):
    """A signature by the provider's private key. With `certificate` the secrets are texts that the content holds."""

    algorithm: PublicAlgorithm
    keys: PublicKeys
    certificate: CertificateUrl | None = None

    @property
    def remote(self) -> bool:
        return self.certificate is not None

    def candidates(self, reader: Reader, secrets: Sequence[str], now_s: float) -> list[Candidate] | Rejected:
        if self.certificate is None:
            found = self._configured(reader, secrets)
            return found or refuse("key_unavailable", "no configured secret is a public key of this scheme")
        texts = [(index, secret) for index, secret in enumerate(secrets) if secret]
        if not texts:
            return refuse("key_unavailable", "no secret is configured")
        key = self.certificate.key(reader, now_s)
        if isinstance(key, Rejected):
            return key
        return [Candidate(f"secrets[{index}]", utf8(secret), key) for index, secret in texts]

    def matches(self, reader: Reader, candidate: Candidate, content: bytes, signatures: Sequence[bytes]) -> bool:
        genuine = any_genuine(self.algorithm, candidate.key, signatures[:PUBLIC_SIGNATURES_MAX], content)
        made = "one" if genuine else "none"
        reader.note(f"{self.algorithm} with {candidate.name}", f"made {made} of {len(signatures)} signature(s)")
        return genuine

    def wanted(self, reader: Reader) -> tuple[Wanted, ...]:
        return self.certificate.wanted(reader) if self.certificate else ()

    def pinned(self, secrets: Sequence[str]) -> bool:
        return "certs" in self.options

    def key_hosts(self, secrets: Sequence[str]) -> tuple[str, ...]:
        return self.certificate.hosts if self.certificate and not self.pinned(secrets) else ()

    def signing_key(self, secret: str) -> Candidate:
        """A private key (PEM). What stands before it is the secret that the content holds, where it holds one."""
        text, begins, rest = secret.partition(PEM_BEGINS)
        return Candidate("the private key", utf8(text.strip()), read_private_key(begins + rest))

    def make(self, candidate: Candidate, content: bytes) -> bytes:
        return make_signature(self.algorithm, candidate.key, content)

    def headers_judged(self) -> frozenset[bytes]:
        own = self.certificate.place.headers if self.certificate else frozenset[bytes]()
        return Signed.headers_judged(self) | own

    def key_problem(self, secret: str) -> str | None:
        if self.certificate is not None:
            return None if secret else "is empty"
        return public_key_problem(self.keys.bare(secret), self.algorithm, self.keys.form)

    def _configured(self, reader: Reader, secrets: Sequence[str]) -> list[Candidate]:
        found: list[Candidate] = []
        for index, secret in enumerate(secrets):
            key = read_public_key(self.keys.bare(secret)) if secret else None
            if key is not None and fits(key, self.algorithm):
                found.append(Candidate(f"secrets[{index}]", utf8(secret), key))
                reader.note(f"secrets[{index}]", f"read as a public key for {self.algorithm}")
            else:
                reader.note(f"secrets[{index}]", f"is not a public key for {self.algorithm} ({FORMS[self.keys.form]})")
        return found
