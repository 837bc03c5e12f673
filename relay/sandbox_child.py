"""The sandbox child's whole program: one thread, one socket (descriptor 0), the engine, and nothing else left to it.

The only importer of the engine. It imports `_quickjs`, the engine itself: the package `quickjs` around it starts a
thread when imported, and a thread that is not confined would undo the confinement of the other.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import time
from pathlib import Path
from typing import Any, Final

from relay.confine import confine, give_way, leave_signals_to_parent
from relay.sandbox_channel import (
    ABSENT,
    COMPILE,
    ERROR,
    NOTHING,
    REQUEST,
    RESULT,
    RUN_ONCE,
    SIZES,
    Channel,
    Encoded,
    Frame,
)
from relay.sandbox_context import Inputs
from relay.sandbox_engine import Engine, Programs
from relay.sandbox_errors import Limits, ScriptError

#: Recursion depth about 1,200; the main thread's C stack is 8 MiB on the usual system.
STACK_BYTES_MAX: Final = 2 * 1024 * 1024

#: Run once under the confinement as any transform is: it tells quickjs-ng from the archived engine, and what the
#: confinement forbids by mistake ends the child here, not in somebody's webhook.
PROBE: Final = """async function transform() {
  const text = new Array(1e5).fill("relay").join(" "), made = JSON.parse(JSON.stringify({ text }));
  try { null.x } catch (error) { `${error.stack}` }
  await null;
  const used = [new Date(2024, 0, 1).toISOString(), Math.random(), /^(a+)b$/.test("ab"), 2n ** 64n, made.text.length];
  return { modern: used.length === 5 && !!Array.prototype.at && !!Object.groupBy };
}"""


def stack_bytes() -> int:
    """For the engine, a part of what the system gives the main thread."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return STACK_BYTES_MAX if soft < 0 else min(STACK_BYTES_MAX, soft // 4)


def serve(channel: Channel, engine: Engine) -> None:
    """Answer until the parent closes its end; make contexts while nobody asks."""
    while True:
        while engine.used and channel.idle():
            engine.spare_time()
        frame = channel.read()
        if frame is None:
            return
        answer_request(channel, engine, frame)


def answer_request(channel: Channel, engine: Engine, frame: Frame) -> None:
    """Each of its calls by itself, one after another."""
    data, at = frame
    _, operation, place, script_bytes, calls = REQUEST.unpack_from(data, at)
    sizes_at = at + REQUEST.size
    at = sizes_at + calls * SIZES.size
    sizes = data[sizes_at:at]
    if script_bytes != ABSENT:  # whatever becomes of the calls: the parent does not send it again
        engine.put(place, decode(data, at, at + script_bytes))
        at += script_bytes
    for raw_bytes, evt_bytes, headers_bytes, query_bytes in SIZES.iter_unpack(sizes):
        evt_at = at + raw_bytes
        headers_at = evt_at + evt_bytes
        query_at = headers_at + headers_bytes
        ends = (at, evt_at, headers_at, query_at, query_at + query_bytes)
        channel.answer(answer_call(engine, operation, place, data, ends))
        at = ends[4]


def answer_call(
    engine: Engine, operation: int, place: int, data: memoryview, ends: tuple[int, int, int, int, int]
) -> Encoded:
    """`ends`: where the call's texts lie in `data`, each to where the next begins."""
    try:
        if operation == COMPILE:
            engine.compile(engine.scripts[place])
            return NOTHING, b""
        text = engine.run(place, read_inputs(data, *ends), once=operation == RUN_ONCE)
    except ScriptError as error:
        return ERROR, error.encode()
    except MemoryError:  # of the process: a body of many times the usual limit
        full = ScriptError("script_out_of_memory", "the request alone takes more memory than a sandbox child has")
        return ERROR, full.encode()
    return (NOTHING, b"") if text is None else (RESULT, text.encode())


def read_inputs(data: memoryview, raw_at: int, evt_at: int, headers_at: int, query_at: int, end: int) -> Inputs:
    return (
        str(data[raw_at:evt_at], "utf-8", "replace"),
        decode(data, evt_at, headers_at) if evt_at < headers_at else None,
        str(data[headers_at:query_at], "utf-8", "replace"),
        decode(data, query_at, end) if query_at < end else None,
    )


def decode(data: memoryview, at: int, end: int) -> str:
    return str(data[at:end], "utf-8", "replace")


def make_engine(settings: dict[str, Any]) -> Engine:
    import _quickjs  # here and not above: the relay imports nothing that loads the engine

    here = Path(__file__).parent
    programs = Programs(
        (here / "sandbox_wrapper.js").read_text("utf-8"), (here / "sandbox_lockdown.js").read_text("utf-8")
    )
    limits = Limits(settings["seconds"], settings["memory_bytes"], stack_bytes(), settings["output_bytes"])
    return Engine(_quickjs, programs, limits, reuse=settings["reuse"])


def main(settings: dict[str, Any]) -> None:
    """`settings`: the limits, whether contexts may be used again, the layers to leave out."""
    leave_signals_to_parent()
    channel = Channel(socket.socket(fileno=0))
    try:
        engine = make_engine(settings)
        time.tzset()  # reads the zone file while there are files
        give_way()
        layers = confine(settings["address_space_bytes"], without=settings["without"])
        report = {"layers": layers, "engine": self_test(engine)}
    except Exception as error:  # noqa: BLE001 the parent has no other way to learn why
        channel.send(json.dumps({"problem": f"{type(error).__name__}: {error}"}).encode())
        return
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a context must go the moment its call ends
    channel.send(json.dumps(report).encode())
    serve(channel, engine)


def self_test(engine: Engine) -> Any:
    try:
        found = engine.run_fresh(PROBE, ("", None, "{}", None))
    except ScriptError:
        return {}
    gc.collect()
    while engine.spare_time():
        pass
    engine.warm.clear()
    return json.loads(found or "{}")


def run(settings: dict[str, Any]) -> None:
    """The process's first and last function."""
    # os._exit: the interpreter's own shutdown would want files.
    try:
        main(settings)
    except BaseException:  # noqa: BLE001 there is nobody to tell; the parent sees the code
        os._exit(70)
    os._exit(0)
