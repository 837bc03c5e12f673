"""What a command prints: tables for people, one JSON document for programs, notes and progress on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

#: How a script can tell the endings apart; the epilog of --help and docs/operating.md say the same.
EXIT_DONE: Final = 0
EXIT_UNSUCCESSFUL: Final = 1
EXIT_CONFIG: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130

COLOURS: Final = {
    "dead": "31", "error": "31", "warning": "33", "received": "33", "pending": "33",
    "sent": "32", "processed": "32", "ok": "32", "filtered": "2",
}  # fmt: skip
CELL_CHARACTERS_MIN: Final = 8
#: On a terminal that leaves less room for a column, its texts are not wrapped.
WRAPPED_CHARACTERS_MIN: Final = 30


@dataclass(frozen=True, slots=True)
class Column:
    """`key` is the record's field; `show` turns its value into text; a `whole` one is there to be copied, never cut."""

    title: str
    key: str
    show: Callable[[Any], str] = field(default=lambda value: "" if value is None else str(value))
    right: bool = False
    whole: bool = False


class Output:
    """stdout and stderr of one command."""

    def __init__(self, environ: Mapping[str, str], stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.stdout, self.stderr = stdout or sys.stdout, stderr or sys.stderr
        self.on_terminal = self.stdout.isatty()
        self.colour = self.on_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self.width = shutil.get_terminal_size((100, 24)).columns if self.on_terminal else None
        self.progress_shown = False

    def line(self, text: str = "") -> None:
        print(printable(text), file=self.stdout)

    def raw(self, body: bytes) -> None:
        """Bytes as they are: for a file or another program."""
        self.stdout.flush()
        self.stdout.buffer.write(body)
        self.stdout.buffer.flush()

    def document(self, value: Any) -> None:
        """One JSON document, the whole of stdout."""
        print(json.dumps(value, indent=2), file=self.stdout)

    def note(self, text: str) -> None:
        """For the person, beside the result."""
        self.end_progress()
        print(f"relay: {printable(text)}", file=self.stderr)

    def progress(self, text: str) -> None:
        """How far long work has come: one line that is written over on a terminal, else a line each time."""
        end, start = ("", "\r\x1b[K") if self.stderr.isatty() else ("\n", "")
        print(f"{start}{printable(text)}", end=end, file=self.stderr, flush=True)
        self.progress_shown = self.stderr.isatty()

    def end_progress(self) -> None:
        if self.progress_shown:
            print(file=self.stderr)
        self.progress_shown = False

    def table(self, columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> None:
        """Aligned columns under titles; on a terminal without the empty ones, and cut to its width."""
        if self.width:
            columns = [column for column in columns if any(column.show(record.get(column.key)) for record in records)]
        rows = [[printable(column.show(record.get(column.key))) for column in columns] for record in records]
        titles = [column.title for column in columns]
        widths = [max(map(columns_of, column)) for column in zip(titles, *rows, strict=True)]
        widths = fit(widths, [column.whole or column.right for column in columns], self.width)
        print(self.paint("1", aligned(titles, widths, columns)), file=self.stdout)
        for row in rows:
            print(self.paint_states(row, aligned(row, widths, columns)), file=self.stdout)

    def fields(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Name and value, one to a line; what is None is left out."""
        kept = [(name, str(value)) for name, value in pairs if value is not None]
        width = max((len(name) for name, _ in kept), default=0)
        for name, value in kept:
            first, *more = self.wrapped(value, width + 2)
            print(f"{name:<{width}}  {self.paint(COLOURS.get(value, ''), first)}", file=self.stdout)
            for rest in more:
                print(" " * (width + 2) + rest, file=self.stdout)

    def item(self, text: str) -> None:
        """One of a list of sentences."""
        first, *more = self.wrapped(text, 2)
        for start, part in (("- ", first), *(("  ", part) for part in more)):
            print(start + part, file=self.stdout)

    def wrapped(self, text: str, indent: int) -> list[str]:
        """On a terminal a long text goes on in its column, apart at spaces only; elsewhere it stays one line."""
        room = (self.width or 0) - indent
        if room < WRAPPED_CHARACTERS_MIN or columns_of(printable(text)) <= room:
            return [printable(text)]
        return textwrap.wrap(printable(text), room, break_long_words=False, break_on_hyphens=False)

    def paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour and colour else text

    def paint_states(self, row: Sequence[str], text: str) -> str:
        for cell in row:
            if cell in COLOURS:
                return text.replace(cell, self.paint(COLOURS[cell], cell), 1)
        return text


def fit(widths: list[int], whole: Sequence[bool], total: int | None) -> list[int]:
    """Take from the widest column that may be cut, place by place, until the row fits or nothing is left to take."""
    widths = list(widths)
    spare = sum(widths) + 2 * (len(widths) - 1) - total if total else 0
    while spare > 0:
        wide = [i for i, width in enumerate(widths) if not whole[i] and width > CELL_CHARACTERS_MIN]
        if not wide:
            break
        widths[max(wide, key=lambda i: (widths[i], i))] -= 1
        spare -= 1
    return widths


def aligned(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    cells = []
    for text, width, column in zip(row, widths, columns, strict=True):
        cut = shorten(text, width)
        padding = " " * (width - columns_of(cut))
        cells.append(padding + cut if column.right else cut + padding)
    return "  ".join(cells).rstrip()


def shorten(text: str, width: int) -> str:
    if columns_of(text) <= width:
        return text
    while columns_of(text) > width - 1:
        text = text[:-1]
    return text + "…"


def columns_of(text: str) -> int:
    """How many places a terminal gives the text: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: what strangers send holds no escape sequence when printed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t" else escaped(c) for c in text)


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if character != "\n" else " "


def age(at_ms: int | None, now_ms: int) -> str:
    """How long ago, or in how long, in one unit."""
    if at_ms is None:
        return ""
    seconds = (now_ms - at_ms) / 1000
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size * (2 if unit == "d" else 1):
            return told(int(abs(seconds) // size), unit, seconds)
    return told(int(abs(seconds)), "s", seconds)


def told(count: int, unit: str, seconds: float) -> str:
    if count == 0:
        return "now"
    return f"{count} {unit} ago" if seconds > 0 else f"in {count} {unit}"


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
