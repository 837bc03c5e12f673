"""Run as a program: put the confinement on, then try one forbidden thing. Exit 0 says that it worked.

    python -m tests.support.confined ACTION [LAYER LEFT OUT…]

Prints the report of the layers first. Exit 3: the attempt was refused with an error.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from relay.confine import confine

LIBC = ctypes.CDLL(None, use_errno=True)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def start_thread() -> None:
    threading.Thread(target=lambda: None).start()


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def signal_parent() -> None:
    os.kill(os.getppid(), signal.SIGURG)


def allocate() -> None:
    bytearray(1 << 30)


ACTIONS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "create": lambda: os.open("/tmp/relay-confined", os.O_CREAT | os.O_WRONLY),
    "list": lambda: os.listdir("/"),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": fork,
    "thread": start_thread,
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "signal": signal_parent,
    "memory_map": executable_memory,
    "allocate": allocate,
    "regain_root": lambda: os.setuid(0),
    "compute": lambda: sum(range(100_000)),
}


def main(action: str, without: list[str]) -> None:
    report = os.dup(1)
    os.dup2(report, 3)
    layers = confine(512 << 20, keep_fd=3, without=without)
    os.write(3, json.dumps(layers).encode())
    try:
        ACTIONS[action]()
    except (OSError, MemoryError, RuntimeError):
        os._exit(3)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
