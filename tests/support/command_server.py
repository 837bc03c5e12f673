"""The other side of command.py: a process that has imported the command line, and forks for each command.

A line on stdin asks for one, a line on stdout gives its exit code. Importing takes half a second, forking nothing; a
command is a process of its own all the same, with its own folder, environment, stdin, stdout and stderr.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from typing import Any, Final

from relay.cli import main

STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def serve() -> None:
    asks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    for line in asks:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(asked: dict[str, Any]) -> None:
    """The command, to its end. Never returns."""
    code: object = 1
    try:
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environ"])
        for number, (name, mode) in enumerate(STREAMS):
            redirect(number, name, mode, asked[name])
        sys.argv = ["relay", *asked["arguments"]]
        code = main(asked["arguments"])
    except SystemExit as ended:  # argparse's way to end
        code = ended.code
    except BaseException:  # noqa: BLE001 - shown, as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)


def redirect(number: int, name: str, mode: str, file: str) -> None:
    """Stream `number` is this file from here on, read and written as the interpreter would."""
    opened = os.open(file, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    os.dup2(opened, number)
    os.close(opened)
    was = getattr(sys, name)
    raw = open(number, f"{mode}b", closefd=False)  # noqa: SIM115 - open to the process's end
    wrapped = io.TextIOWrapper(raw, encoding=was.encoding, errors=was.errors, line_buffering=name == "stderr")
    setattr(sys, name, wrapped)


if __name__ == "__main__":
    serve()
