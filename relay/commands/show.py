"""One delivery or one event for people: everything that is known, in the order one asks for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from relay.commands.output import Column, Output, age, size
from relay.records import Json

BODY_LINES_MAX: Final = 200
BODY_CHARACTERS_MAX: Final = 16 * 1024


def show_delivery(delivery: Json, output: Output, now_ms: int, columns: Sequence[Column]) -> None:
    output.fields(
        [
            ("id", delivery["id"]),
            ("source", delivery["source"]),
            ("state", delivery["state"]),
            ("why", why(delivery)),
            ("received", moment(delivery["received_ms"], now_ms)),
            ("settled", moment(delivery["settled_ms"], now_ms)),
            ("provider's id", delivery["key"]),
            ("environment", delivery["environment"]),
            ("replayed", f"{delivery['generation']} × with new event ids" if delivery["generation"] else None),
            ("duplicates", ", ".join(delivery["duplicates"]) or None),
        ]
    )
    show_request(delivery["request"], delivery, output)
    output.line()
    if delivery["events"]:
        output.line("Events")
        output.table(columns, delivery["events"])
    else:
        output.line("No events")


def show_request(request: Json, delivery: Json, output: Output) -> None:
    query = f"?{request['query']}" if request["query"] else ""
    output.line()
    output.line(f"{request['method']} {request['path']}{query}")
    for name, value in request["headers"]:
        output.line(f"{name}: {value}")
    output.line()
    if request["body_encoding"] == "utf-8":
        show_text(request["body"], delivery["body_bytes"], output)
    else:
        output.line(f"A body of {size(delivery['body_bytes'])} that is no text: --body writes it to stdout")


def show_text(body: str, body_bytes: int, output: Output) -> None:
    """Indented when it is JSON; the beginning only when it is long."""
    text = pretty(body)[:BODY_CHARACTERS_MAX]
    lines = text.splitlines()[:BODY_LINES_MAX]
    for line in lines:
        output.line(line)
    if body_bytes == 0:
        output.line("An empty body")
    elif len(lines) == BODY_LINES_MAX or len(text) == BODY_CHARACTERS_MAX:
        output.line(f"… the beginning of {size(body_bytes)}: --body writes all of it to stdout")


def pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def show_event(event: Json, output: Output, now_ms: int) -> None:
    waits = event["state"] == "pending"
    output.fields(
        [
            ("ref", event["ref"]),
            ("id", event["id"]),
            ("name", event["name"]),
            ("state", event["state"]),
            ("why", why(event)),
            ("tries", event["attempt"]),
            ("next try", moment(event["at_ms"], now_ms) if waits and event["at_ms"] else None),
            ("Inngest's id", event["inngest_id"]),
            ("destination", event["destination"]),
            ("environment", event["environment"]),
            ("source", event["source"]),
            ("delivery", event["delivery_id"]),
            ("created", moment(event["created_ms"], now_ms)),
            ("settled", moment(event["settled_ms"], now_ms)),
        ]
    )
    output.line()
    text = json.dumps(event["event"], indent=2, ensure_ascii=False)
    for line in text.splitlines():
        output.line(line)


def why(record: Json) -> str | None:
    return ": ".join(part for part in (record["code"], record["message"]) if part) or None


def moment(at_ms: int | None, now_ms: int) -> str | None:
    if at_ms is None:
        return None
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z ({age(at_ms, now_ms)})"
