"""What went wrong in a script, in the user's own terms: file, line, column, message, frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from relay.errors import TransformError
from relay.sandbox_context import FACTORY_PREFIX

FRAMES_MAX: Final = 20
#: `    at name (<input>:LINE:COLUMN)`, or without a name; native frames say `(native)`.
FRAME: Final = re.compile(r"^\s*at (?:(?P<name>[^\n]{1,200}?) \()?(?:<input>:(?P<line>\d+):(?P<column>\d+)|native)\)?$")
#: The wrapper's own functions: where they begin, the script's frames end.
WRAPPER_FRAMES: Final = frozenset(
    {
        *("relayStep", "relayRead", "relayBody", "relayCall", "relayDone", "relayAwait", "relayResolve"),
        *("relayFulfilled", "relayRejected", "relayText", "relayFail"),
    }
)


@dataclass(frozen=True, slots=True)
class Script:
    """A transform: `file` is what error messages call it, `source` whose it is: nothing is shared between sources."""

    file: str
    text: str
    source: str = ""

    def __hash__(self) -> int:
        return hash(self.text)  # which the text itself remembers


class Fault(msgspec.Struct):
    """An error as the child reports it; `stack` holds the engine's frames."""

    code: str
    name: str
    message: str
    stack: str


def explain(script: Script, code: str, fault: Fault, otherwise: str) -> TransformError:
    """The fault with its place in the script; `otherwise` is the message of a fault that has none of its own."""
    frames, place = script_frames(script.file, fault.stack)
    where = ":".join(str(part) for part in (script.file, *(place or ())))
    said = ": ".join(part for part in (fault.name, fault.message) if part)
    line, column = place or (None, None)
    return TransformError(code, f"{where}: {said or otherwise}", line, column, "\n".join(frames))


def script_frames(file: str, stack: str) -> tuple[list[str], tuple[int, int] | None]:
    """The script's own frames, innermost first, and the (line, column) of the first that has one."""
    frames: list[str] = []
    place = None
    known = [found for found in map(FRAME.match, stack.split("\n")) if found]
    if len(known) > 1 and not known[0]["name"]:
        del known[0]  # a place in a text that the script gave to JSON.parse, eval or new Function
    for found in known:
        if found["name"] in WRAPPER_FRAMES or len(frames) == FRAMES_MAX:
            break
        at = script_place(found)
        place = place or at
        named = found["name"] or "<anonymous>"
        frames.append(f"    at {named} ({file}:{at[0]}:{at[1]})" if at else f"    at {named} (native)")
    return frames, place


def script_place(frame: re.Match[str]) -> tuple[int, int] | None:
    """Line and column as in the user's file: on the first line stands our prefix before the script."""
    if frame["line"] is None:
        return None
    line, column = int(frame["line"][:9]), int(frame["column"][:9])
    return line, max(1, column - len(FACTORY_PREFIX)) if line == 1 else column
