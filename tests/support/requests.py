"""Requests for tests of verification: made by hand, or read from the vectors in tests/data/vectors."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from relay.errors import Rejected
from relay.models import Request
from relay.presets import Preset
from relay.schemes.places import Reader
from relay.verify import Scheme, Verified, verify, voucher

VECTORS = Path(__file__).parent.parent / "data" / "vectors"
URL = "https://relay.example.test/in/demo"
NOW = 1_760_000_000


@dataclass(frozen=True)
class Vector:
    """A signed request with the verdict that somebody else has given. `extra` is what a source would say beyond."""

    id: str
    preset: str
    secret: str
    request: Request
    url: str
    now: int
    valid: bool
    extra: Mapping[str, Any] = field(default_factory=dict)


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
            extra=row.get("extra", {}),
        )
        for file in sorted(VECTORS.glob("*.json"))
        for row in json.loads(file.read_text("utf-8"))
    ]


def scheme_for(preset: Preset, vector: Vector, *, without: Sequence[str] = ()) -> Scheme:
    """The preset's scheme as the vector's source has it: with those of its extras that are options of the preset."""
    names = {option.name for option in preset.options} - set(without)
    return replace(preset.scheme, options={name: vector.extra[name] for name in names & set(vector.extra)})


def request_to(url: str, headers: object, body: bytes = b"", method: str = "POST") -> Request:
    """`headers` is a mapping or pairs, of str or bytes."""
    parts = urlsplit(url)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    assert not isinstance(pairs, str | bytes)
    raw = tuple((_bytes(name), _bytes(value)) for name, value in pairs)  # type: ignore[attr-defined]  # any pairs
    return Request(method, parts.path, parts.query, raw, body)


def judge(
    scheme: Scheme,
    secrets: Sequence[str],
    request: Request,
    url: str = URL,
    now: float = NOW,
    documents: Mapping[str, bytes] | None = None,
) -> Verified | Rejected:
    """The verdict. The quicker way to a yes, which the receiver takes first, must not say yes to anything else."""
    answer = verify(scheme, secrets, request, url=url, body=request.body, now_s=now, documents=documents or {})
    if not documents:
        for reader in readers(scheme, request, url):
            assert not voucher(scheme, secrets)(reader, now) or isinstance(answer, Verified)
    return answer


def readers(scheme: Scheme, request: Request, url: str) -> list[Reader]:
    """The request as both lanes of the receiver read it; as the fast lane does only when no header comes twice."""
    slow = Reader.of(scheme.headers, request, url, request.body, scheme.options)
    named = {name.lower(): value.strip(b" \t") for name, value in request.headers}
    if len(named) < len(request.headers):
        return [slow]
    return [slow, Reader(request, lambda _: url, request.body, scheme.options, {}, named)]


def code(answer: Verified | Rejected) -> str:
    """The rejection's code, or "verified"."""
    return answer.code if isinstance(answer, Rejected) else "verified"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
