"""A request saved as JSON: what `relay transform <file> <request.json>` reads and what golden cases are made of.

{"method": "POST", "path": "/in/stripe", "query": "a=1", "headers": {"Name": "value"} or [["Name", "value"], …],
 "json": any value | "body": "text" | "body_base64": "…", "received_ms": 1700000000000}

Everything is optional; docs/transforms.md explains each key. What `relay deliveries show ID --json` and `relay rejected
show ID --json` print is read too.
"""

from __future__ import annotations

import base64
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.errors import ConfigError
from relay.models import RawHeaders, Request

KEYS: Final = ("method", "path", "query", "headers", "json", "body", "body_base64", "received_ms")
BODY_KEYS: Final = ("json", "body", "body_base64")


@dataclass(frozen=True, slots=True)
class Case:
    """A request as it might arrive, and when (None: the reader's own time)."""

    request: Request
    received_ms: int | None


def read_case(path: Path) -> Request:
    """The request in the file. Raises ConfigError, which names the file, the key and the remedy."""
    return load_case(path).request


def load_case(path: Path) -> Case:
    """The request in the file and its time of receipt. Raises ConfigError like read_case."""
    table = _unwrapped(_read_object(path), path)
    _check_keys(table, path)
    body, content_type = _body(table, path)
    headers = _headers(table.get("headers", {}), path)
    if content_type and not any(name.lower() == b"content-type" for name, _ in headers):
        headers = ((b"Content-Type", content_type), *headers)
    return Case(
        Request(
            method=_text(table, "method", "POST", path),
            path=_path(table, path),
            query=_text(table, "query", "", path).removeprefix("?"),
            headers=headers,
            body=body,
        ),
        _received_ms(table, path),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise ConfigError(f"is not JSON: {error}", file=path) from error
    if not isinstance(table, dict):
        raise ConfigError('must hold one JSON object: {"headers": {…}, "json": {…}}', file=path)
    return table


def _unwrapped(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `relay deliveries show ID --json` prints is a case, too: the request of a delivery that really came."""
    request = table.get("request")
    if not isinstance(request, dict) or "body_encoding" not in request:
        return table
    if request.get("body_truncated"):
        raise ConfigError("holds the beginning of the body only: it was too large", file=path, key="request.body")
    kept = {key: request[key] for key in ("method", "path", "query", "headers") if key in request}
    body = "body_base64" if request["body_encoding"] == "base64" else "body"
    return {**kept, body: request.get("body", ""), "received_ms": table.get("received_ms")}


def _check_keys(table: dict[str, Any], path: Path) -> None:
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f'there is no such key: {guess}The keys are {", ".join(KEYS)}; the body belongs under "json" or "body"',
                file=path,
                key=key,
            )
    given = [key for key in BODY_KEYS if key in table]
    if len(given) > 1:
        raise ConfigError(f"there is one body: leave out all but one of {', '.join(given)}", file=path, key=given[1])


def _body(table: dict[str, Any], path: Path) -> tuple[bytes, bytes | None]:
    """The body, and the content type that it has if no header says another."""
    if "json" in table:
        text = json.dumps(table["json"], ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass"), b"application/json"
    if "body_base64" in table:
        try:
            return base64.b64decode(_text(table, "body_base64", "", path), validate=True), None
        except ValueError as error:  # binascii.Error is one; text beyond ASCII raises the plain one
            raise ConfigError(f"is not base64: {error}", file=path, key="body_base64") from error
    return _text(table, "body", "", path).encode("utf-8", "surrogatepass"), None


def _headers(value: Any, path: Path) -> RawHeaders:
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ConfigError(
            'must be {"Name": "value"} or, to repeat one, [["Name", "value"], …]; names and values are text',
            file=path,
            key="headers",
        )
    return tuple((name.encode("utf-8", "replace"), text.encode("utf-8", "replace")) for name, text in pairs)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _text(table: dict[str, Any], key: str, default: str, path: Path) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        remedy = '; for a body of JSON write "json" in place of "body"' if key == "body" else ""
        raise ConfigError(f"must be a text{remedy}", file=path, key=key)
    return value


def _path(table: dict[str, Any], path: Path) -> str:
    value = _text(table, "path", "/", path)
    if not value.startswith("/") or "?" in value:
        raise ConfigError('must start with / and hold no ?: write what follows it under "query"', file=path, key="path")
    return value


def _received_ms(table: dict[str, Any], path: Path) -> int | None:
    value = table.get("received_ms")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigError("must be a whole number of milliseconds since 1970", file=path, key="received_ms")
    return value
