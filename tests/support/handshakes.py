"""Handshakes as providers send them, each with its exact answer: tests/data/handshakes.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from relay.handshakes import HandshakeAnswer, answer_unsigned
from relay.models import Request
from relay.presets import preset_for
from tests.support.requests import URL, request_to

FILE = Path(__file__).parent.parent / "data" / "handshakes.json"


@dataclass(frozen=True)
class Case:
    """One request, what the source that it goes to is configured with, and what must be answered."""

    name: str
    preset: str
    secrets: tuple[str, ...]
    options: Mapping[str, Any]
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    signed: bool
    status: int
    answer_headers: Mapping[str, str]
    answer_body: bytes
    keeps: str | None
    confirms: str | None

    @property
    def request(self) -> Request:
        return request_to(self.url, self.headers, self.body, self.method)


def cases() -> list[Case]:
    return [
        Case(
            name=f"{row['provider']}-{row['request']['method']}-{number}",
            preset=row["preset"],
            secrets=(row["secret"],) if row["secret"] else (),
            options=row["options"],
            method=row["request"]["method"],
            url=row["request"]["url"],
            headers=row["request"]["headers"],
            body=row["request"]["body"].encode(),
            signed=row["signed"],
            status=row["response"]["status"],
            answer_headers=row["response"]["headers"],
            answer_body=row["response"]["body"].encode(),
            keeps=row.get("keeps"),
            confirms=row.get("confirms"),
        )
        for number, row in enumerate(json.loads(FILE.read_text("utf-8")))
    ]


def case(provider: str) -> Case:
    """The first one of this provider."""
    return next(each for each in cases() if each.name.startswith(f"{provider}-"))


def braintree_answer(private_key: str, public_key: str, challenge: str) -> str | None:
    """What a source of Braintree answers to `?bt_challenge=…`; None when it signs nothing."""
    preset = preset_for("braintree", {"public_key": public_key}, file=None, key="sources.x")
    request = request_to(f"{URL}?bt_challenge={quote(challenge, safe='')}", {}, method="GET")
    answer = answer_unsigned(preset, request, url=URL, body=b"", secrets=[private_key])
    return answer.body.decode() if isinstance(answer, HandshakeAnswer) else None
