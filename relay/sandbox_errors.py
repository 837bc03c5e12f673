"""What ends a call in the sandbox child with an error, put into words and codes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

#: A script that may throw null itself; in any other it is the engine, out of memory, that did.
THROWS_NULL: Final = re.compile(r"\b(?:throw|reject)\W+null\b")


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


def too_large(limits: Limits) -> ScriptError:
    return ScriptError("output_too_large", f"the result is over {limits.output_bytes} bytes of JSON")


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
