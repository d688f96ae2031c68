"""Plain text in aligned columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from caa_bench.report import words

WIDTH = 118
WIDEST = 120


def level_text(cell: Any) -> str:
    """`.84 [.80, .88]` of a cell; the point alone where there is no interval."""
    return words.interval(cell, "p_balanced", words.probability)


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, wrap_last: bool = False) -> str:
    """Aligned text columns, two blanks apart; with `wrap_last` the last one is broken to keep to the width."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    if wrap_last:
        rest = max(WIDTH - sum(widths[:-1]) - 2 * len(widths), 16)
        lines = [broken for line in lines for broken in _broken(line, rest)]
        widths[-1] = min(widths[-1], rest)
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  " + "  ".join(line) for line in padded)


def folded(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """`columns`, cut into as few tables below each other as keep to the width, the first column in each of them."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) + 2 for i in range(len(head))]
    fewest = len(_blocks(widths, most=len(head)))
    blocks = _blocks(widths, most=math.ceil((len(head) - 1) / fewest))
    shown = [[[line[0], *(line[i] for i in block)] for line in lines] for block in blocks]
    return "\n".join(columns(part[0], part[1:]) for part in shown)


def _blocks(widths: Sequence[int], *, most: int) -> list[list[int]]:
    """Places of the columns behind the first, table by table."""
    blocks: list[list[int]] = [[]]
    for place in range(1, len(widths)):
        wide = widths[0] + sum(widths[i] for i in (*blocks[-1], place)) > WIDEST
        if blocks[-1] and (wide or len(blocks[-1]) == most):
            blocks.append([])
        blocks[-1].append(place)
    return blocks


def _broken(line: list[str], width: int) -> Iterator[list[str]]:
    pieces = textwrap.wrap(line[-1], width) or [""]
    yield [*line[:-1], pieces[0]]
    for piece in pieces[1:]:
        yield [*("" for _ in line[:-1]), piece]
