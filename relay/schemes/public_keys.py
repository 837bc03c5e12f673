"""Public keys: read in whatever form an operator pastes, and used for signatures. cryptography does the mathematics.

Pure and total: what cannot be read is None, and a signature that cannot be checked is not genuine.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from relay.schemes.places import utf8

PublicAlgorithm: TypeAlias = Literal["ed25519", "ecdsa-sha256", "rsa-sha256", "rsa-sha1"]
KeyForm: TypeAlias = Literal["raw_hex", "raw_base64", "spki_base64", "pem", "certificate"]
PublicKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

#: How each form is written, for messages. All of them are read wherever a public key is.
FORMS: Final[dict[KeyForm, str]] = {
    "raw_hex": "32 bytes in hex",
    "raw_base64": "32 bytes in base64",
    "spki_base64": "a public key in base64, without the lines BEGIN and END",
    "pem": "-----BEGIN PUBLIC KEY-----",
    "certificate": "-----BEGIN CERTIFICATE-----",
}
ALGORITHMS: Final[dict[PublicAlgorithm, str]] = {
    "ed25519": "Ed25519",
    "ecdsa-sha256": "EC P-256",
    "rsa-sha256": "RSA",
    "rsa-sha1": "RSA",
}
ED25519_BYTES: Final = 32
#: What cryptography raises for bytes that are no key.
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm)


def read_public_key(text: str) -> PublicKey | None:
    """A PEM (its line breaks may be written \\n), or a key in hex or base64: raw Ed25519, a point of P-256, or DER."""
    if "-----BEGIN" in text:
        return from_pem(utf8(text.replace("\\n", "\n").strip()))
    data = from_text("".join(text.split()))
    if data is None:
        return None
    if len(data) == ED25519_BYTES:
        return ed25519.Ed25519PublicKey.from_public_bytes(data)
    try:
        if data[:1] == b"\x04":
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
        return known(serialization.load_der_public_key(data))
    except UNREADABLE:
        return from_der_certificate(data)


def public_key_problem(text: str, algorithm: PublicAlgorithm, form: KeyForm) -> str | None:
    """Why this text is no key for the algorithm, as the end of a sentence; it never holds the text."""
    if not text:
        return "is empty"
    if "PRIVATE KEY-----" in text:
        return "is a private key, and only the public one belongs here"
    key = read_public_key(text)
    if key is None:
        return f"is not a public key ({ALGORITHMS[algorithm]}: {FORMS[form]})"
    return None if fits(key, algorithm) else f"is {called(key)} key, and {ALGORITHMS[algorithm]} is needed"


def fits(key: object, algorithm: PublicAlgorithm) -> bool:
    if algorithm == "ed25519":
        return isinstance(key, ed25519.Ed25519PublicKey)
    if algorithm == "ecdsa-sha256":
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, rsa.RSAPublicKey)


def called(key: PublicKey) -> str:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "an Ed25519"
    return f"an EC {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else "an RSA"


def any_genuine(algorithm: PublicAlgorithm, key: PublicKey, signatures: Sequence[bytes], content: bytes) -> bool:
    """Whether the key made one of the signatures over the content, with this algorithm and no other."""
    if not fits(key, algorithm):
        return False
    if isinstance(key, ed25519.Ed25519PublicKey):
        return any(verifies(key, signature, content) for signature in signatures)
    digest = hashlib.new(algorithm.partition("-")[2], content).digest()  # once, however many signatures there are
    return any(verifies(key, signature, digest, algorithm) for signature in signatures)


def verifies(key: PublicKey, signature: bytes, data: bytes, algorithm: PublicAlgorithm = "ed25519") -> bool:
    """`data` is the content for Ed25519, and its digest for the others."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(Prehashed(hash_of(algorithm))))
        else:
            key.verify(signature, data, padding.PKCS1v15(), Prehashed(hash_of(algorithm)))
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def read_private_key(text: str) -> PrivateKey:
    """The key to sign with. Raises ValueError with a sentence."""
    if "PRIVATE KEY-----" not in text:
        raise ValueError("the relay holds only the public key: sign with a private key (PEM)")
    try:
        key = serialization.load_pem_private_key(utf8(text.replace("\\n", "\n").strip()), None)
    except UNREADABLE:
        raise ValueError("is not a private key that can be read: PEM without a passphrase is needed") from None
    if isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise ValueError("is a private key of a kind that no provider here signs with")


def make_signature(algorithm: PublicAlgorithm, key: PrivateKey, content: bytes) -> bytes:
    if not fits(key.public_key(), algorithm):
        raise ValueError(f"is {called(key.public_key())} key, and {ALGORITHMS[algorithm]} is needed")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(content)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(content, ec.ECDSA(hash_of(algorithm)))
    return key.sign(content, padding.PKCS1v15(), hash_of(algorithm))


def hash_of(algorithm: PublicAlgorithm) -> hashes.HashAlgorithm:
    return hashes.SHA1() if algorithm == "rsa-sha1" else hashes.SHA256()  # noqa: S303  # what the provider signs with


def read_certificate(text: bytes) -> x509.Certificate | None:
    """The first certificate of a PEM, or one in DER."""
    try:
        pem = b"-----BEGIN" in text
        return x509.load_pem_x509_certificate(text) if pem else x509.load_der_x509_certificate(text)
    except UNREADABLE:
        return None


def certificate_key(certificate: x509.Certificate) -> PublicKey | None:
    try:
        return known(certificate.public_key())
    except UNREADABLE:
        return None


def certificate_problem(certificate: x509.Certificate, now_s: float, names: Sequence[str] = ()) -> str | None:
    """Why a certificate vouches for nothing: its dates, or its subject, which must be one of `names` (`*.a.com`)."""
    if now_s < certificate.not_valid_before_utc.timestamp():
        return "is not valid yet"
    if now_s > certificate.not_valid_after_utc.timestamp():
        return "has expired"
    if names and not any(matches(name, pattern) for name in subjects(certificate) for pattern in names):
        return f"is of none of {', '.join(names)}"
    return None


def subjects(certificate: x509.Certificate) -> list[str]:
    """The common names, and the DNS names beside them."""
    try:
        found = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return [*found, *extension.value.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        return found
    except (*UNREADABLE, x509.DuplicateExtension):
        return []


def matches(name: str, pattern: str) -> bool:
    """`*.` stands for one label."""
    name = name.lower().removeprefix("*.")
    if not pattern.startswith("*."):
        return name == pattern
    return name == pattern[2:] or name.partition(".")[2] == pattern[2:]


def from_pem(pem: bytes) -> PublicKey | None:
    if b"BEGIN CERTIFICATE" in pem:
        certificate = read_certificate(pem)
        return certificate_key(certificate) if certificate else None
    try:
        return known(serialization.load_pem_public_key(pem))
    except UNREADABLE:
        return None


def from_der_certificate(data: bytes) -> PublicKey | None:
    certificate = read_certificate(data)
    return certificate_key(certificate) if certificate else None


def from_text(text: str) -> bytes | None:
    """Hex, or base64 of either alphabet. 64 hex digits are a raw key: as base64 they would be no key's length."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        bare = text.rstrip("=").replace("+", "-").replace("/", "_")
        if not bare.replace("-", "").replace("_", "").isalnum() or not bare.isascii():
            return None
        return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except ValueError:
        return None


def known(key: object) -> PublicKey | None:
    return key if isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None
