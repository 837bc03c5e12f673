"""The other servers of a run: the empty one that everything is measured against, and an Inngest that costs little.

`python -m tests.bench.servers bare|sink PORT`
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import msgspec
import uvloop
from aiohttp import web

BODY_BYTES_MAX: Final = 64 * 1024 * 1024


async def bare() -> web.Application:
    """What a webhook costs when nothing is done with it: read, 200."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="ok")

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/in/stripe", take)
    return app


async def sink() -> web.Application:
    """Answers as the Event API does and counts what it was sent: GET /count."""
    events = 0
    ids: set[int] = set()

    async def take(request: web.Request) -> web.Response:
        nonlocal events
        found = msgspec.json.decode(await request.read(), type=list[Identified])
        events += len(found)
        ids.update(hash(event.id) for event in found)
        return web.Response(body=answer_to(len(found)), content_type="application/json")

    async def count(request: web.Request) -> web.Response:
        return web.json_response({"events": events, "different": len(ids)})

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/e/{key}", take)
    app.router.add_get("/count", count)
    return app


class Identified(msgspec.Struct):
    """An event, of which only the id is read."""

    id: str


def answer_to(count: int) -> bytes:
    return msgspec.json.encode({"ids": [f"01J0000000000000{number:010d}" for number in range(count)], "status": 200})


async def serve(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024, reuse_port=True).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def main(kind: str, port: int) -> None:
    kinds: dict[str, Any] = {"bare": bare, "sink": sink}
    await serve(await kinds[kind](), port)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
