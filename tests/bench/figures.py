"""What a benchmark finds, and how it is shown: a table and a plot."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.processes import CORES

#: What stands above it in the page is written by hand.
MARK: Final = "<!-- Below this line: written by `make bench`. -->"
BAR_PIXELS: Final = 260
ROW_PIXELS: Final = 26


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `ratio` is to what `against` says, in the same run; `goal` as issue and page state it.

    `does`, of a peer: what it does before its answer, and what not.
    """

    name: str
    ratio: float | None
    goal: float | None
    said: str
    against: str = "bare aiohttp"
    at_most: bool = False
    does: str = ""

    @property
    def reached(self) -> str:
        if self.ratio is None or self.goal is None:
            return ""
        good = self.ratio <= self.goal if self.at_most else self.ratio >= self.goal
        return "yes" if good else "no"


def table(figures: Sequence[Figure]) -> str:
    """The relay's own figures, and below them those of peers; what has no figures has no table."""
    own, peers = [each for each in figures if not each.does], [each for each in figures if each.does]
    return "\n\n".join([own_table(own)] * bool(own) + [peer_table(peers)] * bool(peers))


def peer_table(figures: Sequence[Figure]) -> str:
    lines = ["| peer | ratio | before its 200 | in figures |", "|---|---|---|---|"]
    for each in figures:
        ratio = "–" if each.ratio is None else f"**{each.ratio:.2f}**"
        lines.append(f"| {each.name} | {ratio} | {each.does} | {each.said} |")
    return "\n".join(lines)


def own_table(figures: Sequence[Figure]) -> str:
    lines = ["| what | ratio | to | goal | reached | in figures |", "|---|---|---|---|---|---|"]
    for each in figures:
        ratio = "–" if each.ratio is None else f"**{each.ratio:.2f}**"
        goal = "–" if each.goal is None else f"{'≤' if each.at_most else '≥'} {each.goal:g}"
        against = "–" if each.ratio is None else each.against
        lines.append(f"| {each.name} | {ratio} | {against} | {goal} | {each.reached} | {each.said} |")
    return "\n".join(lines)


def plot(figures: Sequence[Figure]) -> str:
    """Bars of the ratios to the bare server, each with a stroke at its goal."""
    shown = [each for each in figures if each.ratio is not None and not each.at_most]
    scale = BAR_PIXELS / max([1.0, *(max(each.ratio or 0, each.goal or 0) for each in shown)])
    rows = []
    for number, each in enumerate(shown):
        y = number * ROW_PIXELS + 8
        rows.append(f'<text x="368" y="{y + 13}" text-anchor="end">{each.name.replace("&", "&amp;")}</text>')
        rows.append(f'<rect x="376" y="{y}" width="{(each.ratio or 0) * scale:.1f}" height="18" fill="#4a7ebb"/>')
        rows.append(f'<text x="{380 + (each.ratio or 0) * scale:.1f}" y="{y + 13}">{each.ratio:.2f}</text>')
        if each.goal is not None:
            x = 376 + each.goal * scale
            rows.append(f'<path d="M{x:.1f} {y - 3}v24" stroke="#c0392b" stroke-width="2"/>')
    height = len(shown) * ROW_PIXELS + 12
    size = f'width="700" height="{height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    background = f'<rect width="700" height="{height}" fill="#fff"/>'
    return "\n".join([head, background, *rows, "</svg>", ""])


def write(figures: Sequence[Figure], page: Path, machine_line: str) -> None:
    """Into the page, below the mark, and the plot beside it."""
    picture = page.with_suffix(".svg")
    picture.write_text(plot(figures), "utf-8")
    above = page.read_text("utf-8").partition(MARK)[0]
    shown = f"![Ratios and their goals]({picture.name})"
    page.write_text(f"{above}{MARK}\n\n{machine_line}\n\n{table(figures)}\n\n{shown}\n", "utf-8")


def machine(fsync_ms: float) -> str:
    """Which machine this was: without it the figures mean little."""
    cpu = next(
        (line.partition(":")[2].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or "unknown processor",
    )
    parts = [f"{len(CORES)} cores of {cpu}", f"Linux {platform.release()}", f"Python {platform.python_version()}"]
    return f"Measured on {', '.join(parts)}; an append of 4 KB and its fdatasync took {fsync_ms:.2f} ms (median)."


def lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
