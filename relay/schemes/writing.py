"""Values put into a request to be sent: the counterpart of places.py, for signatures that travel in query or body."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote_from_bytes

from relay.bodies import content_type
from relay.models import Request
from relay.schemes.json_values import BOM
from relay.schemes.places import fields, utf8, with_header


def put(request: Request, place: str, value: str) -> Request:
    """The request with this value at header:, query:, form: or json:, instead of what is there. Raises ValueError."""
    kind, _, name = place.partition(":")
    if kind == "header":
        return request.but(headers=with_header(request.headers, name, utf8(value)))
    if kind == "query":
        return request.but(query=put_field(utf8(request.query), name, value).decode())
    if kind == "form":
        if content_type(request.headers) != "application/x-www-form-urlencoded":
            raise ValueError("only a form of the type application/x-www-form-urlencoded can be signed")
        return request.but(body=put_field(request.body, name, value))
    if kind == "json":
        return put_json(request, lambda body: put_member(body, name.split("."), value))
    raise ValueError(f"nothing can be written to {place!r}")


def put_each(request: Request, items: str, member: str, value: str) -> Request:
    """The same member of every object in the list at the place `items`, such as json:value."""

    def edit(body: Any) -> None:
        for name in items.partition(":")[2].split("."):
            body = body[int(name) if isinstance(body, list) else name]
        for item in body:
            item[member] = value

    return put_json(request, edit)


def put_field(text: bytes, name: str, value: str) -> bytes:
    pairs = [(key, old) for key, old in fields(text) if key != utf8(name)]
    pairs.append((utf8(name), utf8(value)))
    return b"&".join(utf8(f"{quote_from_bytes(key, '')}={quote_from_bytes(old, '')}") for key, old in pairs)


def put_json(request: Request, edit: Callable[[Any], None]) -> Request:
    try:
        body = json.loads(request.body.removeprefix(BOM))
        edit(body)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError("the body is not the JSON that this provider sends") from error
    return request.but(body=json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())


def put_member(body: Any, path: Sequence[str], value: str) -> None:
    for name in path[:-1]:
        body = body[int(name)] if isinstance(body, list) else body.setdefault(name, {})
    body[int(path[-1]) if isinstance(body, list) else path[-1]] = value
