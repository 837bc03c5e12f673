"""Every signed vector through a running receiver, whose clock is set to the vector's time: 2xx or 401, nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import pytest

from relay.presets import load_presets
from tests.support.key_server import key_server
from tests.support.relay_process import RelayProcess, write_config
from tests.support.requests import VECTORS

NOWHERE = "http://127.0.0.1:9"  # nothing listens there: events wait
AT_ONCE = 16
SNS_HOST = "sns.us-east-1.amazonaws.com"

Row = dict[str, Any]


def rows() -> list[Row]:
    return [row for file in sorted(VECTORS.glob("*.json")) for row in json.loads(file.read_text("utf-8"))]


def times() -> list[float]:
    return sorted({row["now"] for row in rows()})


def source_of(row: Row, options: dict[str, set[str]]) -> dict[str, Any]:
    """A source for this vector alone: its secret, its options, and the URL that the provider was given."""
    known = options[row["preset"]]
    scheme = {name: value for name, value in (row.get("extra") or {}).items() if name in known}
    parts = urlsplit(row["url"])
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    return {"provider": row["preset"], "secrets": [row["secret"]], "url": url, "scheme": scheme}


async def send(relay: RelayProcess, name: str, row: Row) -> int:
    """The request byte for byte, over a connection of its own: the answer's status."""
    query = urlsplit(row["url"]).query
    body = base64.b64decode(row["body"]) if row["body_encoding"] == "base64" else row["body"].encode()
    lines = [f"{row['method']} /in/{name}{'?' if query else ''}{query} HTTP/1.1", "Host: relay.example.test"]
    lines += [f"{header}: {value}" for header, value in row["headers"].items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    address = urlsplit(relay.receiver_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write("\r\n".join(lines).encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1])


async def judge_all(relay: RelayProcess, mine: Iterable[tuple[str, Row]]) -> list[str]:
    """The vectors that were answered otherwise than they should."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, row: Row) -> str | None:
        async with places:
            status = await send(relay, name, row)
        genuine, refused = 200 <= status < 300, status == (405 if row["method"] == "PUT" else 401)
        as_expected = genuine if row["expect"] == "valid" else refused
        return None if as_expected else f"{row['id']}: expected {row['expect']}, answered {status}"

    answers = await asyncio.gather(*(one(name, row) for name, row in mine))
    return [answer for answer in answers if answer]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("now", times())
async def test_every_vector_through_a_running_receiver(relay: RelayProcess, now: float) -> None:
    options = {name: {option.name for option in preset.options} for name, preset in load_presets().items()}
    mine = {f"v{number}": row for number, row in enumerate(rows()) if row["now"] == now}
    assert mine
    sources = {name: source_of(row, options) for name, row in mine.items()}
    async with key_server(relay.folder, SNS_HOST) as server:  # a subscription is confirmed there before it is answered
        server.says("/", "<ConfirmSubscriptionResponse/>")
        keys = {"proxy": server.proxy, "ca_file": str(server.ca_file)}
        write_config(relay.folder, NOWHERE, sources=sources, receiver={"clock_s": float(now)}, keys=keys)
        await relay.start(seconds=60)
        assert await judge_all(relay, mine.items()) == []
