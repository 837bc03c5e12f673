"""The process that commits: reads groups from the socket, answers each when it is durable."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from relay.confine import die_with_parent, leave_signals_to_parent
from relay.memory import settle_memory
from relay.stores.sqlite_committer import Committer
from relay.stores.sqlite_jobs import (
    END,
    FRAME,
    Failed,
    Job,
    Opened,
    Reply,
    pack_opened,
    pack_reply,
    portable,
    unpack_jobs,
)
from relay.stores.sqlite_thread import IDLE_SECONDS

END_KIND: Final = FRAME.unpack(END)[0]


def run(settings: dict[str, Any]) -> None:
    """Until the relay says so, or is gone."""
    leave_signals_to_parent()
    die_with_parent()
    if os.getppid() != settings["parent"]:
        return  # it was gone before the kernel knew that we go with it
    channel = Channel(socket.socket(fileno=0))
    try:
        committer = Committer.open(Path(settings["path"]), settings["window_ms"], settings["disk_free_bytes_min"])
    except Exception as error:  # noqa: BLE001  the relay says it
        channel.send(pack_opened(Opened(error=portable(error))))
        return
    settle_memory()
    with suppress(ConnectionError):  # the relay is gone: nobody waits for an answer
        channel.send(pack_opened(Opened(committer.opens)))
        serve(channel, committer)
    committer.close()


def serve(channel: Channel, committer: Committer) -> None:
    has_chores = True
    while True:
        if has_chores and not channel.wait(IDLE_SECONDS):
            has_chores = committer.do_chore()
            continue
        jobs = channel.receive()
        if jobs is None:
            return
        channel.send(pack_reply(carried(committer.commit(jobs))))
        committer.checkpoint()
        has_chores = True


def carried(reply: Reply) -> Reply:
    """The same with errors that can be sent."""
    if not any(type(result) is Failed for result in reply.results):
        return reply
    results = [Failed(portable(each.error)) if isinstance(each, Failed) else each for each in reply.results]
    return Reply(results, reply.rest_seconds, reply.commits)


class Channel:
    """The child's end of the socket. Raises ConnectionError when the relay is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Whether something came."""
        return bool(self._poll.poll(seconds * 1000))

    def receive(self) -> Sequence[Job] | None:
        """The next group; None when there will be none."""
        kind, size = FRAME.unpack(self._read(FRAME.size))
        return None if kind == END_KIND else unpack_jobs(kind, memoryview(self._read(size)))

    def send(self, parts: Sequence[bytes]) -> None:
        self._connection.sendall(b"".join(parts))

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._connection.recv_into(rest)
            if not count:
                raise ConnectionError("the relay is gone")
            rest = rest[count:]
        return data
