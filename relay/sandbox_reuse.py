"""Contexts that are used again: which scripts may have one, one call in it, and when it is thrown away.

Two promises (docs/decisions/0007-contexts-that-are-used-again.md):
  nothing gets from one call to the next: everything that two calls share is frozen (sandbox_lockdown.js), and the
    script's own variables are new, because its factory runs anew for every call;
  a script cannot tell: only one whose meaning is the same in strict mode has such a context, and a call in which any
    error was made, caught or not, is made again in a fresh one.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.sandbox_context import CHECK_PREFIX, FACTORY_PREFIX, FACTORY_SUFFIX, Inputs, ScriptContext, empty_context
from relay.sandbox_errors import Limits, ScriptError

#: Calls in fresh contexts after a context was thrown away for doubts; each time four times as many.
CALLS_AFTER_DOUBTS: Final = 64
#: Such contexts of one script, after which it gets no more.
FAILURES_MAX: Final = 4
#: So many calls may be made twice, and a quarter of those above, before there are doubts in the context.
DOUBTS_FREE: Final = 4
#: So many calls, or so many bytes of engine memory beyond what it began with, and a context is thrown away.
CALLS_MAX: Final = 10_000
GROWTH_BYTES_MAX: Final = 4 * 1024 * 1024
#: Jobs that were left behind are looked for after so many calls of a script that seems to make no promises.
JOB_CALLS: Final = 64
#: Memory is measured (60 µs) after so many calls, a multiple of those, and after a call that took so many seconds.
MEASURE_CALLS: Final = 8 * JOB_CALLS
MEASURE_SECONDS: Final = 0.002
#: The CPU clock is looked at anew before a call that begins so much later than it was looked at last.
SAMPLE_SECONDS: Final = 0.001
#: Contexts kept, one per place; the least recently used go first.
CONTEXTS_MAX: Final = 32
#: A larger request gets a fresh context, whose cost is nothing beside reading it.
REQUEST_CHARS_MAX: Final = 256 * 1024
#: A call that is not done within this much CPU time is made again in a fresh context, with the whole deadline. The
#: parent's watchdog allows for it: it is less than the half of its grace that it waits for at least.
SECONDS_MAX: Final = 0.05
#: What a job may take that a call left behind, before its context is thrown away.
JOB_SECONDS: Final = 0.01

#: A script with one of these in its code (strings and comments do not count) means something else, or finds something
#: else, in strict mode or in a locked context.
WORDS: Final = re.compile(
    r"\b(?:this|arguments|eval|Function|Reflect|Proxy|globalThis|performance|queueMicrotask|DOMException|__date_clock"
    r"|AsyncDisposableStack|DisposableStack|SuppressedError|random|isFrozen|isSealed|isExtensible"
    r"|getOwnPropertyDescriptors?|getOwnPropertyNames|getOwnPropertySymbols|__lookup[GS]etter__"
    r"|prepareStackTrace|stackTraceLimit|captureStackTrace)\b"
)
#: Without one of these a script makes promises in an odd way, if at all; one that does is found out in its first call.
PROMISES: Final = re.compile(r"[Aa]sync|await|Promise|then|import|\\u")
#: A function declaration; async ones and generators belong to their block in both modes.
DECLARATION: Final = re.compile(r"(?<!async )(?<!async\t)\bfunction\b(?P<rest>\s+(?P<name>[\w$]+)\s*\(|\s*[(*])?")


class UnsureError(Exception):
    """This call must be made again in a fresh context. `lost`: the reused one cannot be used any further."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__(lost)
        self.lost = lost


class LockedContext(ScriptContext):
    """A context with everything frozen that outlives a call."""

    prefix = FACTORY_PREFIX + '"use strict";'

    def __init__(self, binding: Any, wrapper: str, lockdown: str, script: str, limits: Limits) -> None:
        self.lockdown, self.calls, self.spent = lockdown, 0, False
        super().__init__(binding, wrapper, script, limits)
        self.bytes_max = self.bytes_used() + GROWTH_BYTES_MAX
        self.makes_promises = PROMISES.search(script) is not None
        self.look_calls = 1 if self.makes_promises else JOB_CALLS
        self.sampled, self.sampled_cpu = float("-inf"), 0.0
        self.limit(min(SECONDS_MAX, limits.seconds / 4))

    def prepare(self) -> None:
        self.context.eval(self.lockdown)(self.step(6))

    def limit(self, seconds: float) -> None:
        """What a call may take; it is set once, not for each."""
        self.limits = replace(self.limits, seconds=seconds)
        self.look_seconds = min(MEASURE_SECONDS, seconds)
        self.context.set_time_limit(seconds)

    def call(self, given: Inputs) -> str | None:
        """As ScriptContext's read and run, but sure of the result or UnsureError. `spent` says not to use it again."""
        began = time.perf_counter()
        if began - self.sampled > SAMPLE_SECONDS:
            self.sampled, self.sampled_cpu = began, time.process_time()
        try:
            answer = self.transform(*given)
            if answer == 2:
                answer = self.settled()  # a promise
        except (self.binding.JSException, ScriptError, MemoryError, TypeError, ValueError, SystemError):
            raise UnsureError(lost=True) from None
        seconds = time.perf_counter() - began  # no less than its CPU time, which costs more to look at
        self.calls += 1
        if seconds >= self.look_seconds or self.calls % self.look_calls == 0:
            seconds = self.look(seconds)
        # Time: the engine may have been interrupted where the script swallows that, as in a promise's executor.
        if answer == 7 or seconds >= self.limits.seconds:
            raise UnsureError(lost=self.spent)
        if answer is not None and (not isinstance(answer, str) or self.is_too_large(answer)):
            raise UnsureError(lost=True)
        return answer

    def settled(self) -> Any:
        """How the promise ended that transform returned. A job that an earlier call left would run first: then no."""
        if not self.makes_promises:
            raise UnsureError(lost=True)
        answer = self.settle(self.sampled_cpu)
        doubtful = self.step(5)
        self.context.set_time_limit(self.limits.seconds)
        return 7 if doubtful and not isinstance(answer, int | float) else answer

    def look(self, seconds: float) -> float:
        """What must not be looked at after each call: whether it is to be the last one here. Its CPU time, at most."""
        if seconds >= self.look_seconds:
            seconds = self.cpu_seconds()
        is_time = self.calls % MEASURE_CALLS == 0 or seconds >= MEASURE_SECONDS
        self.spent = (self.calls % self.look_calls == 0 and self.left_jobs()) or (is_time and self.worn())
        return seconds

    def cpu_seconds(self) -> float:
        """The call's CPU time, with SAMPLE_SECONDS of calls before it at most. The next call is counted anew."""
        self.sampled = float("-inf")
        return time.process_time() - self.sampled_cpu

    def left_jobs(self) -> bool:
        """A job that the call left behind would run in the next one: then there is no next one.

        Jobs run only where a promise is waited for, so a script that seems to make none is asked now and then.
        """
        self.context.set_time_limit(JOB_SECONDS)
        try:
            return bool(self.guarded(self.context.execute_pending_job))
        except ScriptError:
            return True
        finally:
            self.context.set_time_limit(self.limits.seconds)

    def worn(self) -> bool:
        return self.calls >= CALLS_MAX or self.bytes_used() > self.bytes_max

    def bytes_used(self) -> int:
        return int(self.context.memory()["malloc_size"])


@dataclass(slots=True)
class Record:
    """What is known of a script: fresh calls until it may have a context, and how it did in those it had."""

    wait: int = 0
    calls: int = 0
    doubts: int = 0
    failures: int = 0


class Shelf:
    """The contexts that are used again, by the place of their script: two sources with one text have two places."""

    def __init__(self, binding: Any, wrapper: str, lockdown: str, limits: Limits) -> None:
        self.binding, self.wrapper, self.lockdown, self.limits = binding, wrapper, lockdown, limits
        self.contexts: OrderedDict[int, LockedContext] = OrderedDict()
        self.records: dict[int, Record] = {}

    def call(self, place: int, script: str, given: Inputs) -> str | None:
        """The result of the call in the script's own context. Raises UnsureError."""
        context = self.contexts.get(place)
        if context is None or len(given[0]) + len(given[1] or "") > REQUEST_CHARS_MAX:
            context = self.find(place, script, given)
        if len(self.contexts) > 1:
            self.contexts.move_to_end(place)
        record = self.records[place]
        record.calls += 1
        try:
            text = context.call(given)
        except UnsureError as unsure:
            record.doubts += 1
            if unsure.lost or (record.doubts - DOUBTS_FREE) * 4 > record.calls:
                self.give_up(place, record)
            raise
        if context.spent:
            del self.contexts[place]
        return text

    def find(self, place: int, script: str, given: Inputs) -> LockedContext:
        """A context for the script, made now when it is time. Raises UnsureError when the call is to have none."""
        record = self.records.setdefault(place, Record())
        if record.wait > 0 or len(given[0]) + len(given[1] or "") > REQUEST_CHARS_MAX:
            record.wait -= 1
            raise UnsureError(lost=False)
        context = self.contexts[place] = self.make(place, script, record)
        while len(self.contexts) > CONTEXTS_MAX:
            self.contexts.popitem(last=False)
        return context

    def make(self, place: int, script: str, record: Record) -> LockedContext:
        try:
            if means_the_same(self.binding, script, self.limits):
                return LockedContext(self.binding, self.wrapper, self.lockdown, script, self.limits)
        except (self.binding.JSException, MemoryError):
            pass  # the fresh context will say what is wrong, if anything is
        record.failures = FAILURES_MAX
        self.give_up(place, record)
        raise UnsureError(lost=True)

    def give_up(self, place: int, record: Record) -> None:
        """The next context after four times as many calls as the last one, and at some point never."""
        self.contexts.pop(place, None)
        record.failures += 1
        again = record.failures < FAILURES_MAX
        record.wait = CALLS_AFTER_DOUBTS * 4 ** (record.failures - 1) if again else 1 << 62
        record.calls = record.doubts = 0

    def forget(self, place: int) -> None:
        self.contexts.pop(place, None)
        self.records.pop(place, None)

    def clear(self) -> bool:
        """Give all memory back; False when there was none."""
        had = bool(self.contexts)
        self.contexts.clear()
        return had


def means_the_same(binding: Any, script: str, limits: Limits) -> bool:
    """Can strict mode and a locked context make no difference to this script, beyond errors?

    The engine reads a changed text, and nothing of it runs: what is harmless in a string or a comment is a syntax
    error in code. Words that matter get a number behind them; an escape in a name becomes a line break; and every
    function declaration is doubled, which strict mode forbids inside a block, the one place where it would silently
    be another function. Anything doubtful counts as a difference: it costs speed and nothing else.
    """
    changed = doubled(WORDS.sub(r"\g<0> 1", script.replace("\\u", "\\n")))
    whole = LockedContext.prefix + changed + FACTORY_SUFFIX
    return all(compiles(binding, limits, text) for text in (script, whole))


def compiles(binding: Any, limits: Limits, text: str) -> bool:
    try:
        empty_context(binding, limits).eval(CHECK_PREFIX + text)
    except binding.JSException as error:
        return str(error).strip() == "null"
    except ValueError:  # a NUL, or half a surrogate pair
        return False
    return False


def doubled(script: str) -> str:
    """The text with every function declaration twice."""
    return DECLARATION.sub(double, script)


def double(found: re.Match[str]) -> str:
    if found["rest"] is None:  # the word in a comment, or a declaration written in an odd way
        return "function 1"
    return f"function {found['name']}(){{}} {found[0]}" if found["name"] else found[0]
