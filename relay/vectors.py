"""Signed requests with the verdict they should get: read from a file, judged, compared. No network, no clock.

A vector is {"preset", "secret", "method", "url", "headers", "body", "body_encoding": "utf-8" | "base64", "now",
"expect": "valid" | "invalid"}, with an "id" to call it by and in "extra" what a source would say in its scheme table.
One that cannot be read is a disagreement of its own, and stops none of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from relay.bodies import decode_body
from relay.errors import ConfigError, Rejected
from relay.presets import Preset, load_preset
from relay.saved import Row, SignedRequest, read_json, signed_request
from relay.schemes.reading import Option
from relay.verify import Verified, verify

BODY_BYTES_MAX: Final = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Judged:
    """One vector's verdict beside the expected one. `answer` says what came out, in words."""

    id: str
    expected: str
    answer: str
    agrees: bool


def read_vectors(path: Path) -> list[Row]:
    """The rows of the file. Raises ConfigError when it is no JSON list of objects."""
    rows = read_json(path)
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("must hold a list of vectors, each an object", file=path)
    return rows


def judge_vectors(rows: Sequence[Row]) -> list[Judged]:
    """Every row judged, in order."""
    presets: dict[str, Preset] = {}
    return [judge_vector(row, number, presets) for number, row in enumerate(rows)]


def judge_vector(row: Row, number: int, presets: dict[str, Preset]) -> Judged:
    """One row. `presets` holds those that need nothing said, so that each file is read once."""
    name, expected = str(row.get("id") or f"row {number}"), str(row.get("expect"))
    try:
        signed = signed_request(row)
        preset = vector_preset(row, presets)
        answer = verify_signed(preset, vector_secrets(row), signed)
    except ConfigError as error:
        return Judged(name, expected, f"unreadable ({error})", agrees=False)
    if isinstance(answer, Rejected):
        return Judged(name, expected, f"invalid ({answer.code}: {answer.detail})", agrees=expected == "invalid")
    return Judged(name, expected, "valid", agrees=expected == "valid")


def verify_signed(preset: Preset, secrets: Sequence[str], signed: SignedRequest) -> Verified | Rejected:
    """As the receiver does it, with documents from the configuration only."""
    body = decode_body(signed.request.headers, signed.request.body, BODY_BYTES_MAX)
    if isinstance(body, Rejected):
        return body
    return verify(preset.scheme, secrets, signed.request, url=signed.url, body=body, now_s=signed.now_s or 0.0)


def vector_preset(row: Row, presets: dict[str, Preset]) -> Preset:
    """The preset, with those of the row's extras that are options of its own."""
    name, extra = row.get("preset") or row.get("provider"), row.get("extra")
    if not isinstance(name, str):
        raise ConfigError("names no preset", key="preset")
    if name not in presets:
        presets[name] = load_preset(name)
    preset = presets[name]
    if not isinstance(extra, dict):
        return preset
    options = {option.name: given(option, extra[option.name]) for option in preset.options if option.name in extra}
    return replace(preset, scheme=replace(preset.scheme, options=options))


def given(option: Option, value: Any) -> str | dict[str, str]:
    """The option's value. Raises ConfigError when it is no text, or no table of texts."""
    if option.is_table and isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    if not option.is_table and isinstance(value, str):
        return value
    raise ConfigError(f"must be a {'table of texts' if option.is_table else 'text'}", key=f"extra.{option.name}")


def vector_secrets(row: Row) -> list[str]:
    given = row.get("secrets", row.get("secret"))
    listed = given if isinstance(given, list) else [given]
    return [secret for secret in listed if isinstance(secret, str)]
