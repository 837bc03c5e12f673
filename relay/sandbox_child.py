"""The sandbox child's whole program: one thread, one socket (descriptor 0), the engine, and nothing else left to it.

The only importer of the engine. It imports `_quickjs`, the engine itself: the package `quickjs` around it starts a
thread when imported, and a thread that is not confined would undo the confinement of the other.

A frame is a u32 length (big-endian) and so many bytes. The child speaks first:
  ready    JSON {"layers": {layer: state}, "engine": {…}}, or {"problem": "…"}
Then one reply per request, by its id:
  request  REQUEST header, then script, raw, evt, headers, query as UTF-8
  reply    REPLY header, then the text: for RESULT the JSON that transform returned, for NOTHING none,
           for ERROR a JSON object {code, name, message, stack}

What the binding does outside its time limit is never used: no Object.json(), no conversion of what a script threw
(the wrapper turns it to text inside the limit). What the limit does not stop, the parent's watchdog does.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: u8 operation, u32 id, then the byte lengths of script, raw, evt, headers, query; ABSENT stands for an evt of None.
REQUEST: Final = struct.Struct(">BIIIIII")
REPLY: Final = struct.Struct(">IB")
LENGTH: Final = struct.Struct(">I")
ABSENT: Final = 0xFFFFFFFF
RUN, COMPILE = 1, 2
RESULT, NOTHING, ERROR = 0, 1, 2
#: What an error's text may take at most, in bytes: name, message and stack are cut in the engine.
ERROR_BYTES_MAX: Final = 64 * 1024

#: Contexts kept ready, one per script, the least recently used thrown away first.
WARM_MAX: Final = 32
#: Recursion depth about 1,200; the main thread's C stack is 8 MiB on the usual system.
STACK_BYTES_MAX: Final = 2 * 1024 * 1024
#: A script that may throw null itself; in any other it is the engine, out of memory, that did.
THROWS_NULL: Final = re.compile(r"\b(?:throw|reject)\W+null\b")
#: Jobs are also bounded by time; this bounds a loop of jobs that each take none.
JOBS_MAX: Final = 1_000_000

#: What stands before the script on its first line, in the syntax check and in the factory: equally long.
CHECK_PREFIX: Final = "throw null; "
FACTORY_PREFIX: Final = "(function(){"
FACTORY_SUFFIX: Final = '\n;return typeof transform==="function"?transform:undefined})'

#: Run once under the confinement as any transform is: it tells quickjs-ng from the archived engine, and what the
#: confinement forbids by mistake ends the child here, not in somebody's webhook.
PROBE: Final = """async function transform() {
  const text = new Array(1e5).fill("relay").join(" "), made = JSON.parse(JSON.stringify({ text }));
  try { null.x } catch (error) { `${error.stack}` }
  await null;
  const used = [new Date(2024, 0, 1).toISOString(), Math.random(), /^(a+)b$/.test("ab"), 2n ** 64n, made.text.length];
  return { modern: used.length === 5 && !!Array.prototype.at && !!Object.groupBy };
}"""


@dataclass(frozen=True)
class Limits:
    """What one call may use. `seconds` is CPU time, which in this one-threaded process is the call's own."""

    seconds: float
    memory_bytes: int
    stack_bytes: int
    output_bytes: int


class ScriptError(Exception):
    """The call ends with an error; `code` is one of errors.TRANSFORM_FAILURES."""

    def __init__(self, code: str, message: str, *, name: str = "", stack: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.name, self.stack = code, message, name, stack

    def encode(self) -> bytes:
        fields = {"code": self.code, "name": self.name, "message": self.message[:2000], "stack": self.stack[:4000]}
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")  # half a surrogate pair is no UTF-8


class Slot:
    """One fresh context with one script compiled in it; good for one call, so that nothing outlives the call."""

    def __init__(self, engine: Any, wrapper: str, script: str, limits: Limits) -> None:
        self.script = script
        self.context = engine.Context()
        self.context.set_max_stack_size(limits.stack_bytes)
        self.context.set_memory_limit(limits.memory_bytes)
        self.context.set_time_limit(limits.seconds)
        self.step = self.context.eval(wrapper)
        self.factory = self.context.eval(FACTORY_PREFIX + script + FACTORY_SUFFIX)


class Engine:
    """Runs scripts one call at a time; `spare_time` is for making contexts ahead of need."""

    def __init__(self, binding: Any, wrapper: str, limits: Limits) -> None:
        self.binding, self.wrapper, self.limits = binding, wrapper, limits
        self.sound: OrderedDict[str, None] = OrderedDict()  # scripts whose syntax was checked
        self.warm: OrderedDict[str, Slot] = OrderedDict()
        self.used: dict[str, None] = {}  # scripts called since the last idle moment

    def run(self, script: str, raw: str, evt: str | None, headers: str, query: str) -> str | None:
        """The JSON text that transform returned, None for null and undefined. Raises ScriptError."""
        slot = self.take(script)
        self.used[script] = None
        self.read(slot, raw, evt, headers, query)
        began = time.process_time()  # only now: the time to read a large body is not the script's
        answer = self.guarded(lambda: slot.step(0, slot.factory, float(self.limits.output_bytes)))
        if answer == 2:
            answer = self.settle(slot, began)
        return self.judge(slot, answer)

    def read(self, slot: Slot, *request: str | None) -> None:
        try:
            self.judge(slot, self.guarded(lambda: slot.step(4, None, 0, *request)))
        except ScriptError as error:
            if error.code == "script_out_of_memory":
                error.message = f"the parsed body alone takes more than {self.limits.memory_bytes} bytes of memory"
            raise

    def compile(self, script: str) -> None:
        """Check the syntax, and that running the script's top level defines transform. Raises ScriptError."""
        slot = self.take(script)
        self.judge(slot, self.guarded(lambda: slot.step(3, slot.factory)))

    def spare_time(self) -> bool:
        """Make one context for a script used lately; False when none is wanted."""
        if not self.used:
            return False
        script, _ = self.used.popitem()
        if script not in self.warm:
            try:
                self.warm[script] = Slot(self.binding, self.wrapper, script, self.limits)
            except (self.binding.JSException, MemoryError):
                return True  # the next call of this script will say what is wrong
        while len(self.warm) > WARM_MAX:
            self.warm.popitem(last=False)
        return True

    def take(self, script: str) -> Slot:
        slot = self.warm.pop(script, None)
        if slot is None:
            self.check(script)
            slot = self.guarded(lambda: Slot(self.binding, self.wrapper, script, self.limits))
        return slot

    def check(self, script: str) -> None:
        """Parse the whole script and run nothing of it: one that closes the factory's function early ends here."""
        if script in self.sound:
            return
        context = self.binding.Context()
        context.set_max_stack_size(self.limits.stack_bytes)
        context.set_memory_limit(self.limits.memory_bytes)
        try:
            context.eval(CHECK_PREFIX + script)
        except self.binding.JSException as error:
            if str(error).strip() != "null":
                raise syntax_error(str(error), script) from None
        except ValueError as error:  # a NUL, or (UnicodeEncodeError) half a surrogate pair
            raise ScriptError("script_invalid", f"the script's text is not valid: {error}") from None
        self.sound[script] = None
        while len(self.sound) > WARM_MAX:
            self.sound.popitem(last=False)

    def settle(self, slot: Slot, began: float) -> Any:
        """Run the promise jobs until the result is there, none is left, or the call's time is up."""
        answer: Any = slot.step(1)
        for _ in range(JOBS_MAX):
            if answer != 2:
                return answer
            left = self.limits.seconds - (time.process_time() - began)
            if left <= 0:
                raise ScriptError("script_timed_out", "its promise jobs never came to an end")
            slot.context.set_time_limit(left)
            if not self.guarded(slot.context.execute_pending_job):
                raise ScriptError("script_timed_out", "the promise that transform returned never settled")
            answer = slot.step(1)
        raise ScriptError("script_timed_out", f"more than {JOBS_MAX} promise jobs")

    def judge(self, slot: Slot, answer: Any) -> str | None:
        if answer is None:
            return None
        if isinstance(answer, str):
            if len(answer.encode("utf-8", "replace")) > self.limits.output_bytes:
                raise too_large(self.limits)
            return answer
        if answer == 1:
            raise thrown(self.guarded(lambda: slot.step(2)))
        if answer == 6:
            raise threw_null(slot.script)
        if answer == 3:
            raise ScriptError("script_invalid", "there is no function named transform")
        if answer == 4:
            raise too_large(self.limits)
        raise ScriptError("invalid_event", "transform returned a function or a symbol, which has no JSON form")

    def guarded(self, call: Any) -> Any:
        """Call the engine; what it raises itself (a limit reached, mostly) becomes a ScriptError."""
        try:
            return call()
        except self.binding.JSException as error:
            raise stopped(str(error)) from None
        except MemoryError:
            raise ScriptError("script_out_of_memory", "") from None
        except (TypeError, ValueError, SystemError) as error:  # a value that the binding cannot hand over
            raise ScriptError("script_raised", f"the result cannot be read: {error}") from None


def too_large(limits: Limits) -> ScriptError:
    return ScriptError("output_too_large", f"the result is over {limits.output_bytes} bytes of JSON")


def stack_bytes() -> int:
    """For the engine, a part of what the system gives the main thread."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return STACK_BYTES_MAX if soft < 0 else min(STACK_BYTES_MAX, soft // 4)


def thrown(report: Any) -> ScriptError:
    """What the wrapper wrote down of a thrown value."""
    if not isinstance(report, str):
        return ScriptError("script_raised", "an error that cannot be printed")
    fields = json.loads(report)
    if fields["name"] == "InternalError" and "out of memory" in fields["message"]:
        return ScriptError("script_out_of_memory", "", stack=fields["stack"])
    return ScriptError("script_raised", fields["message"], name=fields["name"], stack=fields["stack"])


def threw_null(script: str) -> ScriptError:
    if THROWS_NULL.search(script):
        return ScriptError("script_raised", "null", name="Thrown")
    return ScriptError("script_out_of_memory", "")


def stopped(text: str) -> ScriptError:
    """The engine's own words for why a call ended: `Name: message`, then the frames."""
    first, _, stack = text.partition("\n")
    if "interrupted" in first:
        return ScriptError("script_timed_out", "", stack=stack)
    if "out of memory" in first or first in ("null", ""):  # with no memory left not even the error can be made
        return ScriptError("script_out_of_memory", "", stack=stack)
    name, _, message = first.partition(": ")
    return ScriptError("script_raised", message or first, name=name if message else "", stack=stack)


def syntax_error(text: str, script: str) -> ScriptError:
    first, _, stack = text.partition("\n")
    name, _, message = first.partition(": ")
    place = re.search(r"<input>:(\d+)", stack)
    lines = script.split("\n")
    line = lines[int(place[1]) - 1] if place and 0 < int(place[1]) <= len(lines) else ""
    if re.match(r"\s*(export|import)\b", line) or re.search(r"\b(export|import)\b", message):
        message += (
            ": a transform is a plain script, not an ES module; write `function transform(evt, headers, queryParams,"
            " raw) { … }` without import and export"
        )
    return ScriptError("script_invalid", message or first, name=name if message else "", stack=stack)


def read_exactly(channel: socket.socket, size: int) -> bytearray | None:
    """So many bytes, or None when the parent is gone."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = channel.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return data


def send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(LENGTH.pack(len(data)) + data)


def read_request(channel: socket.socket) -> bytearray | None:
    head = read_exactly(channel, LENGTH.size)
    return None if head is None else read_exactly(channel, LENGTH.unpack(head)[0])


def answer_request(engine: Engine, frame: bytearray) -> bytes:
    number = REQUEST.unpack_from(frame)[1]
    try:
        text = run_request(engine, frame)
    except ScriptError as error:
        return REPLY.pack(number, ERROR) + error.encode()
    except MemoryError:  # of the process: a body of many times the usual limit
        full = ScriptError("script_out_of_memory", "the request alone takes more memory than a sandbox child has")
        return REPLY.pack(number, ERROR) + full.encode()
    if text is None:
        return REPLY.pack(number, NOTHING)
    return REPLY.pack(number, RESULT) + text.encode("utf-8", "replace")


def run_request(engine: Engine, frame: bytearray) -> str | None:
    operation, _, *sizes = REQUEST.unpack_from(frame)
    texts: list[str | None] = []
    at = REQUEST.size
    for size in sizes:
        texts.append(None if size == ABSENT else frame[at : at + size].decode("utf-8", "replace"))
        at += 0 if size == ABSENT else size
    script, raw, evt, headers, query = texts
    if operation == COMPILE:
        engine.compile(script or "")
        return None
    return engine.run(script or "", raw or "", evt, headers or "{}", query or "{}")


def serve(channel: socket.socket, engine: Engine) -> None:
    """Answer until the parent closes its end; make contexts while nobody asks."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while True:
        while engine.used and not waiting.poll(0):
            engine.spare_time()
        frame = read_request(channel)
        if frame is None:
            return
        send(channel, answer_request(engine, frame))


def main(settings: dict[str, Any]) -> None:
    """`settings`: paths to import from, the limits, the layers to leave out."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload is the relay's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the relay's: it ends its children when it has drained
    channel = socket.socket(fileno=0)
    sys.path[:0] = settings["paths"]
    try:
        import _quickjs  # here and not above: the relay reads this module's constants, and must not load the engine

        from relay.confine import confine  # found by the paths just given

        wrapper = (Path(__file__).parent / "sandbox_wrapper.js").read_text("utf-8")
        time.tzset()  # reads the zone file while there are files
        limits = Limits(settings["seconds"], settings["memory_bytes"], stack_bytes(), settings["output_bytes"])
        layers = confine(settings["address_space_bytes"], without=settings["without"])
        engine = Engine(_quickjs, wrapper, limits)
        report = {"layers": layers, "engine": self_test(engine)}
    except Exception as error:  # noqa: BLE001 the parent has no other way to learn why
        send(channel, json.dumps({"problem": f"{type(error).__name__}: {error}"}).encode())
        return
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a context must go the moment its call ends
    send(channel, json.dumps(report).encode())
    serve(channel, engine)


def self_test(engine: Engine) -> Any:
    try:
        found = engine.run(PROBE, "", None, "{}", "{}")
    except ScriptError:
        return {}
    gc.collect()
    while engine.spare_time():
        pass
    engine.warm.clear()
    return json.loads(found or "{}")


if __name__ == "__main__":
    # os._exit: the interpreter's own shutdown would want files.
    try:
        main(json.loads(sys.argv[1]))
    except BaseException:  # noqa: BLE001 there is nobody to tell; the parent sees the code
        os._exit(70)
    os._exit(0)
