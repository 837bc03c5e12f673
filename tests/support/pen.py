"""Rejected requests, and pens, for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from relay.models import Request
from relay.stores.pen import RejectedRecord, RejectedRequest
from relay.stores.sqlite_pen import SqlitePen
from relay.telemetry import Telemetry
from tests.support.store import START_MS

OpenPen = Callable[..., SqlitePen]


def rejected(name: str, **changes: Any) -> RejectedRequest:
    """A rejected request whose id is `name`; `body` and `headers` are the request's."""
    headers = changes.pop("headers", ((b"Content-Type", b"application/json"),))
    request = Request("POST", "/in/github", "a=1", headers, changes.pop("body", b'{"n":1}'))
    fields: dict[str, Any] = {
        "source": "github",
        "received_ms": START_MS,
        "url": "https://relay.example/in/github?a=1",
        "code": "signature_mismatch",
        "detail": "none of 1 secret(s)",
        "request": request,
        **changes,
    }
    return RejectedRequest(id=name, **fields)


def numbered(number: int, **changes: Any) -> RejectedRequest:
    """One of many: ids that sort as they came."""
    return rejected(changes.pop("id", f"01J{number:023}"), **changes)


def names(found: Iterable[RejectedRecord]) -> list[str]:
    return [record.id for record in found]


def open_pen(path: Path, clock_ms: Callable[[], int], **changes: Any) -> SqlitePen:
    """A pen with the default settings, with a `telemetry` that keeps its lines to itself."""
    settings: dict[str, Any] = {
        "count_max": 100,
        "bytes_max": 4 << 20,
        "hours": 72.0,
        "sources": 2,
        "disk_free_bytes_min": 0,
        "telemetry": Telemetry(io.StringIO(), as_json=True),
        **changes,
    }
    return SqlitePen(path, clock_ms=clock_ms, **settings)


def metric(telemetry: Telemetry, name: str, **labels: str) -> float:
    """The sum of a counter's samples that carry these labels."""
    return metric_of(telemetry.exposition().decode(), name, **labels)


def metric_of(exposition: str, name: str, **labels: str) -> float:
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def logged(telemetry: Telemetry) -> str:
    assert isinstance(telemetry.stream, io.StringIO)
    return telemetry.stream.getvalue()
