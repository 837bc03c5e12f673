"""The sandbox child's engine in the test's own process, for what only counts can show. Unconfined: own scripts only."""

from __future__ import annotations

from pathlib import Path

import _quickjs

from relay import sandbox_child
from relay.sandbox_context import Inputs
from relay.sandbox_engine import Engine, Programs
from relay.sandbox_errors import Limits, ScriptError
from relay.sandbox_reuse import LockedContext, UnsureError

LIMITS = Limits(seconds=1.0, memory_bytes=64 * 1024 * 1024, stack_bytes=1024 * 1024, output_bytes=1024 * 1024)
HERE = Path(sandbox_child.__file__).parent
PROGRAMS = Programs((HERE / "sandbox_wrapper.js").read_text(), (HERE / "sandbox_lockdown.js").read_text())


def engine(*, reuse: bool = True) -> Engine:
    return Engine(_quickjs, PROGRAMS, LIMITS, reuse=reuse)


def locked(script: str) -> LockedContext:
    return LockedContext(_quickjs, PROGRAMS.wrapper, PROGRAMS.lockdown, script, LIMITS)


def inputs(raw: str = '{"x":1}') -> Inputs:
    return raw, None, "{}", "{}"


def run(runs: Engine, script: str, given: Inputs, *, once: bool = False) -> str | None:
    """In the script's place, which it is given at its first call."""
    return runs.run(place(runs, script), given, once=once)


def place(runs: Engine, script: str) -> int:
    if script not in runs.scripts.values():
        runs.put(len(runs.scripts), script)
    return next(number for number, text in runs.scripts.items() if text == script)


def fresh_result(script: str, raw: str = '{"x":1}') -> str | None:
    """In a context of its own, as ever; an error is its code."""
    try:
        return engine(reuse=False).run_fresh(script, inputs(raw))
    except ScriptError as error:
        return f"error {error.code}"


def locked_result(context: LockedContext, raw: str = '{"x":1}') -> str | None:
    """`unsure` where the call would be made again in a fresh context."""
    try:
        return context.call(inputs(raw))
    except UnsureError:
        return "unsure"
