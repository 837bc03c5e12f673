"""One call of a script in one context of the engine: read the request, run transform, judge the answer.

What the binding does outside its time limit is never used: no Object.json(), no conversion of what a script threw
(the wrapper turns it to text inside the limit). What the limit does not stop, the parent's watchdog does.
"""

from __future__ import annotations

import time
from typing import Any, Final, TypeAlias

from relay.sandbox_errors import Limits, ScriptError, stopped, threw_null, thrown, too_large

#: Jobs are also bounded by time; this bounds a loop of jobs that each take none.
JOBS_MAX: Final = 1_000_000

#: What stands before the script on its first line, in the syntax check and in the factory: equally long.
CHECK_PREFIX: Final = "throw null; "
FACTORY_PREFIX: Final = "(function(){"
FACTORY_SUFFIX: Final = '\n;return typeof transform==="function"?transform:undefined})'


#: What transform is called with, as text: raw, evt (None: it is the parsed raw), headers, query (None: there is none).
Inputs: TypeAlias = tuple[str, str | None, str, str | None]


class ScriptContext:
    """One context with one script compiled in it. As it is, good for one call, so that nothing outlives the call."""

    prefix = FACTORY_PREFIX

    def __init__(self, binding: Any, wrapper: str, script: str, limits: Limits) -> None:
        self.binding, self.script, self.limits = binding, script, limits
        self.context = empty_context(binding, limits)
        self.context.set_time_limit(limits.seconds)
        self.step = self.context.eval(wrapper)
        self.prepare()
        self.factory = self.context.eval(self.prefix + script + FACTORY_SUFFIX)
        self.transform = self.step(0, self.factory, float(limits.output_bytes))  # the wrapper's relayCall
        self.chars_max = limits.output_bytes // 4  # so many take no more than output_bytes for sure

    def prepare(self) -> None:
        """Between the wrapper and the script."""

    def read(self, given: Inputs) -> None:
        try:
            self.judge(self.guarded(self.step, 4, None, 0, *given))
        except ScriptError as error:
            if error.code == "script_out_of_memory":
                error.message = f"the parsed body alone takes more than {self.limits.memory_bytes} bytes of memory"
            raise

    def run(self, began: float) -> str | None:
        """The JSON text that transform returned, None for null and undefined. Raises ScriptError.

        `began`: the process's CPU time now; that to read a large body is not the script's.
        """
        answer = self.guarded(self.transform, None)
        if answer == 2:
            answer = self.settle(began)
        return self.judge(answer)

    def compile(self) -> None:
        """Run the script's top level and look for transform. Raises ScriptError."""
        self.judge(self.guarded(self.step, 3, self.factory))

    def settle(self, began: float) -> Any:
        """Run the promise jobs until the result is there, none is left, or the call's time is up."""
        answer: Any = self.step(1)
        for _ in range(JOBS_MAX):
            if answer != 2:
                return answer
            left = self.limits.seconds - (time.process_time() - began)
            if left <= 0:
                raise ScriptError("script_timed_out", "its promise jobs never came to an end")
            self.context.set_time_limit(left)
            if not self.guarded(self.context.execute_pending_job):
                raise ScriptError("script_timed_out", "the promise that transform returned never settled")
            answer = self.step(1)
        raise ScriptError("script_timed_out", f"more than {JOBS_MAX} promise jobs")

    def judge(self, answer: Any) -> str | None:
        if answer is None:
            return None
        if isinstance(answer, str):
            if self.is_too_large(answer):
                raise too_large(self.limits)
            return answer
        if answer == 1:
            raise thrown(self.guarded(self.step, 2))
        if answer == 6:
            raise threw_null(self.script)
        if answer == 3:
            raise ScriptError("script_invalid", "there is no function named transform")
        if answer == 4:
            raise too_large(self.limits)
        raise ScriptError("invalid_event", "transform returned a function or a symbol, which has no JSON form")

    def is_too_large(self, text: str) -> bool:
        """A character takes four bytes at most, so that most texts need not be measured."""
        return len(text) > self.chars_max and len(text.encode("utf-8", "replace")) > self.limits.output_bytes

    def guarded(self, call: Any, *arguments: Any) -> Any:
        """Call the engine; what it raises itself (a limit reached, mostly) becomes a ScriptError."""
        return guarded(self.binding, call, *arguments)


def empty_context(binding: Any, limits: Limits) -> Any:
    context = binding.Context()
    context.set_max_stack_size(limits.stack_bytes)
    context.set_memory_limit(limits.memory_bytes)
    return context


def guarded(binding: Any, call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except binding.JSException as error:
        raise stopped(str(error)) from None
    except MemoryError:
        raise ScriptError("script_out_of_memory", "") from None
    except (TypeError, ValueError, SystemError) as error:  # a value that the binding cannot hand over
        if isinstance(error.__cause__, MemoryError):  # of the process: there was none for a text as UTF-8
            raise ScriptError("script_out_of_memory", "") from None
        raise ScriptError("script_raised", f"the result cannot be read: {error}") from None
