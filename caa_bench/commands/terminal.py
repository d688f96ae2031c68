"""The terminal that a command prints to: its width, its colors where it has any, and text broken to fit."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Literal, TextIO

from caa_bench.storage.safe_text import terminal_safe

MOST, LEAST = 120, 60
"""Columns: tables are made for no more and no fewer."""
_CODES = {"bold": "1", "red": "31"}
GAP = 2


def columns() -> int:
    """What COLUMNS or the terminal says, within bounds; 120 where the output is a file or a pipe."""
    return max(LEAST, min(MOST, shutil.get_terminal_size(fallback=(MOST, 24)).columns))


def painted(text: str, style: Literal["bold", "red"], *, stream: TextIO | None = None) -> str:
    """The text in a style, on a terminal that shows it; plain in a file, or where NO_COLOR is set (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not (stream or sys.stdout).isatty()
    return text if plain else f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def wrapped(text: str, *, indent: int = 4) -> str:
    """Every line broken between words to fit the terminal, what follows indented."""
    lines = []
    for line in text.split("\n"):
        begins = line[: len(line) - len(line.lstrip())]
        more = begins + " " * indent
        options = {"break_long_words": False, "break_on_hyphens": False}
        lines += textwrap.wrap(line, columns(), subsequent_indent=more, **options) or [""]  # type: ignore[arg-type]
    return "\n".join(lines)


def names_text(entries: Mapping[str, str]) -> str:
    """A line a name with what it is, cut to the terminal."""
    widest = max(map(len, entries), default=0)
    room = max(columns() - widest - 2 * GAP, 20)
    return "\n".join(
        f"  {name:<{widest}}  {textwrap.shorten(terminal_safe(what), room, placeholder=' ...')}".rstrip()
        for name, what in entries.items()
    )


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Aligned columns, two blanks apart; the last one, a path, stays whole so that it can be copied."""
    rows = [list(heads), *(list(map(terminal_safe, line)) for line in lines)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    padded = ([text.ljust(size) for text, size in zip(row, widths, strict=True)] for row in rows)
    return "\n".join((" " * GAP).join(row).rstrip() for row in padded)
