"""The one who commits, as a process of its own: the event loop and the writer each have an interpreter to themselves.

    event loop ── jobs of a group ──▶ socket ──▶ sqlite_process_child ── COMMIT
               ◀── reply ──────────── socket ◀──

It holds the file's lock as well, and ends with us, however we end. When it ends without us, the store is lost: what was
being written may be on the disk or not, so only a new start finds out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from relay.errors import StoreUnavailable
from relay.stores.sqlite_jobs import END, FRAME, Job, Opened, Reply, pack_jobs, unpack_opened, unpack_reply

#: All that the interpreter is told: where to find us and what we use.
PROGRAM: Final = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings['paths'];"
    " from relay.stores.sqlite_process_child import run; run(settings)"
)
#: What the socket holds, so that a usual group goes through in one piece.
SOCKET_BYTES: Final = 4 * 1024 * 1024


class CommitterProcess(asyncio.Protocol):
    """See sqlite_writer.Committing. Made by `open`."""

    shares_core = False

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.opens = 0
        self._process = process
        self._came = bytearray()
        self._opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._closing = False
        self._transport: asyncio.Transport
        self._answer: Callable[[Reply], None]
        self._lost: Callable[[str], None] | None = None

    @classmethod
    async def open(cls, path: Path, window_ms: int, disk_free_bytes_min: int, lock: int) -> CommitterProcess:
        """`lock` is the descriptor of the file's lock. Raises ConfigError or StoreUnavailable when the file cannot be
        opened. To be called on the main thread: the kernel ends the process with the thread that started it.
        """
        ours, theirs = socket.socketpair()
        settings = {
            "paths": sys.path,
            "path": str(path),
            "window_ms": window_ms,
            "disk_free_bytes_min": disk_free_bytes_min,
            "parent": os.getpid(),
        }
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            process = subprocess.Popen(  # noqa: S603, ASYNC220  our own program; it is there in two milliseconds
                [sys.executable, "-S", "-B", "-c", PROGRAM, json.dumps(settings)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=(lock,),
            )
        _, committing = await asyncio.get_running_loop().create_unix_connection(lambda: cls(process), sock=ours)
        try:
            committing.opens = await committing._opened
        except BaseException:
            await committing.close()
            raise
        return committing

    # ── as Committing ──

    def begin(self, answer: Callable[[Reply], None], lost: Callable[[str], None]) -> None:
        self._answer, self._lost = answer, lost
        if self._ended.is_set():
            asyncio.get_running_loop().call_soon(lost, self._how_it_ended())

    def send(self, jobs: Sequence[Job]) -> None:
        self._transport.writelines(pack_jobs(jobs))

    async def close(self) -> None:
        self._closing = True
        if not self._ended.is_set():
            self._transport.write(END)
        await self._ended.wait()
        await asyncio.to_thread(self._process.wait)

    # ── as Protocol ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        came = self._came
        came += data
        while len(came) >= FRAME.size:
            kind, size = FRAME.unpack_from(came)
            end = FRAME.size + size
            if len(came) < end:
                return
            packed = bytes(memoryview(came)[FRAME.size : end])
            del came[:end]
            if self._opened.done():
                self._answer(unpack_reply(kind, packed))
            else:
                self._has_opened(unpack_opened(packed))

    def _has_opened(self, opened: Opened) -> None:
        if opened.error is None:
            self._opened.set_result(opened.opens)
        else:
            self._opened.set_exception(opened.error)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._ended.set()
        if not self._opened.done():
            self._opened.set_exception(StoreUnavailable(self._how_it_ended()))
        elif self._lost is not None and not self._closing:
            self._lost(self._how_it_ended())

    def _how_it_ended(self) -> str:
        code = self._process.wait()  # its socket is closed: it ends at this moment
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the store's writer (pid {self._process.pid}) has ended ({how}): start the relay again"
