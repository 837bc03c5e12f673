"""Requests saved in files, in the forms in which people have them: as JSON, as a case, as the text of HTTP itself."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from relay.cases import KEYS, load_case
from relay.errors import ConfigError
from relay.models import RawHeaders, Request

#: Where a request was sent whose file does not say.
NOWHERE: Final = "relay.invalid"
FORMS: Final = "JSON nor an HTTP request (POST /in/x HTTP/1.1, headers, an empty line, body)"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request, its whole URL, and when it came (unix seconds; None: the file does not say)."""

    request: Request
    url: str
    now_s: float | None


def read_saved(path: Path) -> SignedRequest:
    """The request in the file. Raises ConfigError, which names the file and what is wrong in it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    if not text.lstrip().startswith(b"{"):
        return raw_request(text, path)
    table = read_json(path)
    if "url" in table and "request" not in table:
        return signed_request(table)
    if "request" not in table and not table.keys() <= set(KEYS):
        return signed_request(table)
    if table.get("body_kept") is False:
        raise ConfigError("has no body, which was too large to be kept (rejected.bytes_max)", file=path, key="request")
    case = load_case(path)
    url = table.get("url") if "request" in table else None  # of a rejected request, as the relay took it to be
    return SignedRequest(case.request, url or url_of(case.request), case.received_ms and case.received_ms / 1000)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", file=path) from error


def raw_request(text: bytes, path: Path) -> SignedRequest:
    """`POST /in/x HTTP/1.1`, headers, an empty line, the body to the end of the file, byte for byte."""
    head, separator, body = text.partition(b"\r\n\r\n")
    if not separator or b"\n\n" in head:
        head, _, body = text.partition(b"\n\n")
    first, *lines = re.split(rb"\r?\n", head)
    words = re.fullmatch(rb"([A-Z]+) (/\S*)(?: HTTP/\d(?:\.\d)?)?", first)
    if words is None:
        raise ConfigError(f"is neither {FORMS}", file=path)
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ConfigError(f"has a header line without a colon: {line[:40]!r}", file=path)
        headers.append((name.strip(), value.strip()))
    target, _, query = words[2].decode("latin-1").partition("?")
    request = Request(words[1].decode(), target, query, tuple(headers), body)
    return SignedRequest(request, url_of(request), None)


def url_of(request: Request) -> str:
    """What the receiver would take the URL to be, without receiver.public_url."""
    query = f"?{request.query}" if request.query else ""
    return f"http://{request.header('host') or NOWHERE}{request.path}{query}"


def signed_request(row: Row) -> SignedRequest:
    """The request of a row. Raises ConfigError that names the key."""
    url = row.get("url") or f"https://{NOWHERE}/"
    try:
        parts = urlsplit(url)
    except (ValueError, AttributeError, TypeError):
        raise ConfigError("is no URL", key="url") from None
    now = row.get("now")
    if now is not None and (isinstance(now, bool) or not isinstance(now, int | float) or not 0 <= now < 1e12):
        raise ConfigError("must be a number of seconds since 1970", key="now")
    method = str(row.get("method") or "POST")
    path, _, query = url.removeprefix(f"{parts.scheme}://").removeprefix(parts.netloc).partition("#")[0].partition("?")
    return SignedRequest(Request(method, path or "/", query, row_headers(row), row_body(row)), url, now)


def row_headers(row: Row) -> RawHeaders:
    headers = row.get("headers") or {}
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ConfigError('must be {"Name": "value"} or [["Name", "value"], …]', key="headers")
    several = [(name, one) for name, value in pairs for one in (value if isinstance(value, list) else [value])]
    return tuple((str(name).encode("utf-8", "replace"), str(one).encode("utf-8", "replace")) for name, one in several)


def row_body(row: Row) -> bytes:
    body, encoding = row.get("body") or "", row.get("body_encoding") or "utf-8"
    if not isinstance(body, str) or encoding not in ("utf-8", "base64"):
        raise ConfigError("must be a text, with body_encoding utf-8 or base64", key="body")
    if encoding == "utf-8":
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise ConfigError(f"is not base64: {error}", key="body") from error
