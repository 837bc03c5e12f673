"""Requests for tests of verification: made by hand, or read from the vectors in tests/data/vectors."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from relay.errors import Rejected
from relay.models import Request
from relay.verify import Scheme, Verified, verify

VECTORS = Path(__file__).parent.parent / "data" / "vectors"
URL = "https://relay.example.test/in/demo"
NOW = 1_760_000_000


@dataclass(frozen=True)
class Vector:
    """A signed request with the verdict that somebody else has given."""

    id: str
    preset: str
    secret: str
    request: Request
    url: str
    now: int
    valid: bool


def vectors() -> list[Vector]:
    return [
        Vector(
            id=row["id"],
            preset=row["preset"],
            secret=row["secret"],
            request=request_to(
                row["url"],
                row["headers"].items(),
                base64.b64decode(row["body"]) if row["body_encoding"] == "base64" else row["body"].encode(),
                row["method"],
            ),
            url=row["url"],
            now=row["now"],
            valid=row["expect"] == "valid",
        )
        for file in sorted(VECTORS.glob("*.json"))
        for row in json.loads(file.read_text("utf-8"))
    ]


def request_to(url: str, headers: object, body: bytes = b"", method: str = "POST") -> Request:
    """`headers` is a mapping or pairs, of str or bytes."""
    parts = urlsplit(url)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    assert not isinstance(pairs, str | bytes)
    raw = tuple((_bytes(name), _bytes(value)) for name, value in pairs)  # type: ignore[attr-defined]  # any pairs
    return Request(method, parts.path, parts.query, raw, body)


def judge(
    scheme: Scheme, secrets: Sequence[str], request: Request, url: str = URL, now: float = NOW
) -> Verified | Rejected:
    return verify(scheme, secrets, request, url=url, body=request.body, now_s=now)


def code(answer: Verified | Rejected) -> str:
    """The rejection's code, or "verified"."""
    return answer.code if isinstance(answer, Rejected) else "verified"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
