"""Amazon SNS: named fields in the order of the alphabet, signed with RSA; the certificate stands at a URL of Amazon's.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html, and the package sns-validator. Anybody
with an AWS account can have SNS sign a message: only the topic tells ours, so that the topic's ARN is the secret.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.errors import Rejected
from relay.models import Request
from relay.schemes.base import Scheme, Timestamp, Wanted, missing, read_keys, refuse
from relay.schemes.encodings import decode_base64
from relay.schemes.places import Reader, parse_place, utf8
from relay.schemes.public_keys import (
    PublicAlgorithm,
    PublicKey,
    any_genuine,
    certificate_key,
    certificate_problem,
    make_signature,
    read_certificate,
    read_private_key,
)
from relay.schemes.shared import VERBATIM, no_key, object_in, strict_json, string

NOTIFICATION: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
#: Which fields are signed depends on the type; Subject only where there is one.
SIGNED: Final = {
    "Notification": NOTIFICATION,
    "SubscriptionConfirmation": CONFIRMATION,
    "UnsubscribeConfirmation": CONFIRMATION,
}
ALGORITHMS: Final[Mapping[str, PublicAlgorithm]] = {"1": "rsa-sha1", "2": "rsa-sha256"}
#: A region's own host and nothing else under amazonaws.com: anybody may own a bucket, and sns.s3-us-west-2 is one.
CERTIFICATE_URL: Final = re.compile(
    r"https://sns\.[a-z]{2}(?:-[a-z]{1,12}){1,3}-[0-9]{1,2}\.amazonaws\.com(?:\.cn)?"
    r"/SimpleNotificationService-[A-Za-z0-9]{1,80}\.pem"
)
TIMESTAMP: Final = parse_place("json:Timestamp")
ANY_TIME: Final = Timestamp(TIMESTAMP, "iso")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sns(Scheme):
    """The option `certs` (URL → PEM) takes the place of the network. No time is judged unless a tolerance is set: SNS
    sends a message again with the time at which it was published.
    """

    time: Timestamp = ANY_TIME

    remote = True

    def wanted(self, reader: Reader) -> tuple[Wanted, ...]:
        message = read_message(reader.body)
        if self.options.get("certs") or isinstance(message, Rejected):
            return ()
        url = message["SigningCertURL"]
        return (Wanted(url, url),)

    def pinned(self, secrets: Sequence[str]) -> bool:
        return bool(self.options.get("certs"))

    def key_hosts(self, secrets: Sequence[str]) -> tuple[str, ...]:
        """The regions' own, by the topics: arn:aws:sns:REGION:ACCOUNT:NAME."""
        regions = [parts[3] for secret in secrets if len(parts := secret.split(":")) > 3]
        return () if self.pinned(secrets) else tuple(map(host_of, dict.fromkeys(regions)))

    def judge(self, reader: Reader, secrets: Sequence[str], now_s: float) -> Rejected | None:
        topics = read_keys(reader, secrets, VERBATIM)
        if not topics:
            return no_key()
        message = read_message(reader.body)
        if isinstance(message, Rejected):
            return message
        reader.note("TopicArn", message["TopicArn"])
        if not any(hmac.compare_digest(topic, utf8(message["TopicArn"])) for _, topic in topics):
            return refuse("signature_mismatch", f"TopicArn is none of the {len(topics)} topic(s) in secrets")
        key = self._key(reader, message["SigningCertURL"], now_s)
        if isinstance(key, Rejected):
            return key
        return judge_signature(reader, message, key) or self.time.judge(reader, now_s)

    def sign(self, secret: str, request: Request, url: str, now_s: float, delivery_id: str) -> Request:
        """With an RSA private key in PEM, for tests that pin a certificate of their own; Amazon keeps the real one."""
        key, body = read_private_key(secret), {**object_in(request.body), "SignatureVersion": "2"}
        if body.get("Type") not in SIGNED:
            raise ValueError("the body to sign has no Type of SNS")
        signature = make_signature("rsa-sha256", key, content_of(body))
        signed = json.dumps({**body, "Signature": b64encode(signature).decode()}, ensure_ascii=False)
        return request.but(body=signed.encode())

    def headers_judged(self) -> frozenset[bytes]:
        return frozenset()

    def key_problem(self, secret: str) -> str | None:
        return None if secret.startswith("arn:") else "is no topic's ARN" if secret else "is empty"

    def with_tolerance(self, seconds: float) -> Scheme | None:
        return replace(self, time=replace(self.time, tolerance_seconds=seconds, future_seconds=seconds))

    def _key(self, reader: Reader, url: str, now_s: float) -> PublicKey | Rejected:
        """That of the configured certificate, else of the one that was fetched, which must be valid now."""
        pinned: Mapping[str, str] | None = self.options.get("certs")
        reader.note("SigningCertURL", url)
        document = utf8(pinned.get(url, "")) if pinned else reader.documents.get(url)
        if document is None:
            return refuse("key_unreachable", f"{url} could not be fetched")
        certificate = read_certificate(document)
        key = certificate_key(certificate) if certificate else None
        if certificate is None or key is None:
            where = "in certs for that URL" if pinned else f"at {url}"
            return refuse("key_unavailable" if pinned else "key_unreachable", f"there is no certificate {where}")
        if not pinned and (problem := certificate_problem(certificate, now_s)):
            return refuse("key_unreachable", f"the certificate at {url} {problem}")
        return key


def host_of(region: str) -> str:
    return f"sns.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def read_message(body: bytes) -> dict[str, str] | Rejected:
    """The fields that count, all of them texts and all there; `Subject` may be absent."""
    found = strict_json(body)
    kind = string(found.get("Type")) if isinstance(found, dict) else None
    if kind not in SIGNED:
        return missing(parse_place("json:Type"))
    names = (*SIGNED[kind], "Signature", "SignatureVersion", "SigningCertURL")
    message = {name: text for name in names if (text := string(found.get(name))) is not None}
    for name in names:
        if name not in message and not (name == "Subject" and found.get(name) is None):
            return missing(parse_place(f"json:{name}"))
        # A line break would let the end of one field pass for another field.
        if name != "Message" and "\n" in message.get(name, ""):
            return refuse("signature_mismatch", f"{name} holds a line break")
    if not message["Signature"]:
        return missing(parse_place("json:Signature"))
    if message["SignatureVersion"] not in ALGORITHMS:
        return refuse("signature_mismatch", "SignatureVersion is neither 1 nor 2")
    if not CERTIFICATE_URL.fullmatch(message["SigningCertURL"]):
        return refuse("signature_mismatch", "SigningCertURL is not on a host of Amazon SNS")
    return message


def judge_signature(reader: Reader, message: dict[str, str], key: PublicKey) -> Rejected | None:
    algorithm, content = ALGORITHMS[message["SignatureVersion"]], content_of(message)
    reader.note("Signature", f"{message['Signature']}, {algorithm}")
    reader.note("what is signed", content)
    if any_genuine(algorithm, key, [decode_base64(utf8(message["Signature"])) or b""], content):
        return None
    return refuse("signature_mismatch", "Signature is not that of the certificate's key over these fields")


def content_of(message: Mapping[str, Any]) -> bytes:
    """Name, line break, value, line break, for each of the fields of this type of message."""
    names = [name for name in SIGNED[message["Type"]] if message.get(name) is not None]
    return utf8("".join(f"{name}\n{message[name]}\n" for name in names))
