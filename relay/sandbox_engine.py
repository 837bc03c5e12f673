"""Which context a call runs in: a fresh one, mostly made ahead, or the script's own that is used again."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from relay.sandbox_context import CHECK_PREFIX, Inputs, ScriptContext, empty_context, guarded
from relay.sandbox_errors import Limits, ScriptError, syntax_error
from relay.sandbox_reuse import Shelf, UnsureError

#: Contexts kept ready, one per script, the least recently used thrown away first.
WARM_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Programs:
    """The JavaScript that stands before every script."""

    wrapper: str
    lockdown: str


class Engine:
    """Runs scripts one call at a time; `spare_time` is for making contexts ahead of need."""

    def __init__(self, binding: Any, programs: Programs, limits: Limits, *, reuse: bool) -> None:
        self.binding, self.wrapper, self.limits = binding, programs.wrapper, limits
        self.shelf = Shelf(binding, programs.wrapper, programs.lockdown, limits)
        self.reuse = reuse
        self.scripts: dict[int, str] = {}  # by the place that the parent gave them
        self.sound: OrderedDict[str, None] = OrderedDict()  # scripts whose syntax was checked
        self.warm: OrderedDict[str, ScriptContext] = OrderedDict()
        self.used: dict[str, None] = {}  # scripts called since the last idle moment

    def put(self, place: int, script: str) -> None:
        """From now on this is the script in that place; nothing of the one before is left."""
        self.scripts[place] = script
        self.shelf.forget(place)

    def run(self, place: int, given: Inputs, *, once: bool = False) -> str | None:
        """The JSON text that transform returned, None for null and undefined. Raises ScriptError."""
        script = self.scripts[place]
        if self.reuse and not once:
            try:
                return self.shelf.call(place, script, given)
            except UnsureError:
                pass  # only what a fresh context says counts
        try:
            return self.run_fresh(script, given)
        except (ScriptError, MemoryError) as error:
            scarce = isinstance(error, MemoryError) or error.code == "script_out_of_memory"
            if not scarce or not self.shelf.clear():
                raise
        return self.run_fresh(script, given)  # with the memory that the contexts on the shelf had

    def run_fresh(self, script: str, given: Inputs) -> str | None:
        context = self.take(script)
        self.used[script] = None
        context.read(given)
        return context.run(time.process_time())

    def compile(self, script: str) -> None:
        """Check the syntax, and that running the script's top level defines transform. Raises ScriptError."""
        self.take(script).compile()

    def spare_time(self) -> bool:
        """Make one context for a script used lately; False when none is wanted."""
        if not self.used:
            return False
        script, _ = self.used.popitem()
        if script not in self.warm:
            try:
                self.warm[script] = self.fresh(script)
            except (self.binding.JSException, MemoryError):
                return True  # the next call of this script will say what is wrong
        while len(self.warm) > WARM_MAX:
            self.warm.popitem(last=False)
        return True

    def fresh(self, script: str) -> ScriptContext:
        return ScriptContext(self.binding, self.wrapper, script, self.limits)

    def take(self, script: str) -> ScriptContext:
        context = self.warm.pop(script, None)
        if context is None:
            self.check(script)
            context = guarded(self.binding, self.fresh, script)
        return context

    def check(self, script: str) -> None:
        """Parse the whole script and run nothing of it: one that closes the factory's function early ends here."""
        if script in self.sound:
            return
        try:
            empty_context(self.binding, self.limits).eval(CHECK_PREFIX + script)
        except self.binding.JSException as error:
            if str(error).strip() != "null":
                raise syntax_error(str(error), script) from None
        except ValueError as error:  # a NUL, or (UnicodeEncodeError) half a surrogate pair
            raise ScriptError("script_invalid", f"the script's text is not valid: {error}") from None
        self.sound[script] = None
        while len(self.sound) > WARM_MAX:
            self.sound.popitem(last=False)
