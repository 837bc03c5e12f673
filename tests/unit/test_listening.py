"""How connections are accepted, on real sockets and the event loop that the relay runs on."""

from __future__ import annotations

import asyncio
import socket
from itertools import pairwise

import pytest
import uvloop
from aiohttp import web

from relay.supervisor import listen, listening_url

CONNECTIONS = 24


async def accepted_by_turn(accepts: int) -> list[int]:
    """How many of CONNECTIONS that wait at the same time are accepted in each turn of the event loop."""
    runner = web.AppRunner(web.Application())
    await listen(runner, "127.0.0.1", 0, key="receiver", accepts=accepts)
    assert runner.server is not None
    senders = [socket.create_connection(runner.addresses[0]) for _ in range(CONNECTIONS)]
    counts = [0]
    while counts[-1] < CONNECTIONS:
        await asyncio.sleep(0)
        counts.append(len(runner.server.connections))
    for sender in senders:
        sender.close()
    await runner.cleanup()
    return [after - before for before, after in pairwise(counts)]


@pytest.mark.parametrize("accepts", [1, 4, 8])
def test_so_many_connections_are_accepted_in_a_turn(accepts: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(accepted_by_turn(accepts))
    assert max(found) == accepts


async def listened_and_stopped() -> tuple[str, int]:
    runner = web.AppRunner(web.Application())
    await listen(runner, "127.0.0.1", 0, key="receiver", accepts=8)
    url, port = listening_url(runner), runner.addresses[0][1]
    await runner.cleanup()
    return url, port


def test_nobody_listens_after_the_end() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        url, port = runner.run(listened_and_stopped())
    assert url == f"http://127.0.0.1:{port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
