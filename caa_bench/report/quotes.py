"""A number as it is shown, with the table, the line and the column that it stands in.

Whatever the page or a sentence says is made of these, so that every number can be traced and recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from caa_bench.report import words

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Quote:
    """One number.

    Args:
        text: as shown.
        value: unrounded; NaN is n/a.
        place: what kind of line: `cell` (cells.csv and the shifts), `line` (stacking.csv), `metric` (metrics.csv),
            `curve`, `item`, `vector` (vectors.csv), `fit` (fits.csv), `matched` (matched.csv), `loss` (equal_loss.csv),
            `artifact`.
        key: that line's key.
        column: its column.
    """

    text: str
    value: float
    place: str
    key: str
    column: str

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Span:
    """A number with its 95% interval."""

    point: Quote
    low: Quote
    high: Quote

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends, NaN where there is no interval."""
        return self.low.value, self.high.value

    @property
    def bounded(self) -> bool:
        """Whether the interval is known."""
        return self.low.known and self.high.known

    def __str__(self) -> str:
        """`1.20 [0.90, 1.50]`; the point alone where there is no interval; n/a without a number."""
        return f"{self.point} [{self.low}, {self.high}]" if self.bounded else str(self.point)


def cell_quote(cell: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a cell or of its shift."""
    return _quote(cell, column, form, place="cell", key=str(cell["cell"]))


def cell_span(cell: Line, column: str, form: Callable[[float], str]) -> Span:
    """A number of a cell or of its shift, with its interval."""
    return _span(cell, column, form, place="cell", key=str(cell["cell"]))


def line_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a stacking line."""
    return _quote(line, column, form, place="line", key=line_key(line))


def line_span(line: Line, column: str, form: Callable[[float], str]) -> Span:
    """A number of a stacking line, with its interval."""
    return _span(line, column, form, place="line", key=line_key(line))


def fit_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of one fit's line of fits.csv."""
    return _quote(line, column, form, place="fit", key=str(line["cell"]))


def metric_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a line of metrics.csv."""
    return _quote(line, column, form, place="metric", key=metric_key(line))


def metric_span(line: Line, column: str, form: Callable[[float], str]) -> Span:
    """A number of a line of metrics.csv, with its interval."""
    return _span(line, column, form, place="metric", key=metric_key(line))


def metric_key(line: Line) -> str:
    """`cell|task|metric`."""
    return f"{line['cell']}|{line['task']}|{line['metric']}"


def matched_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a line of matched.csv."""
    return _quote(line, column, form, place="matched", key=str(line["base"]))


def matched_span(line: Line, column: str, form: Callable[[float], str]) -> Span:
    """A number of a line of matched.csv, with its interval."""
    return _span(line, column, form, place="matched", key=str(line["base"]))


def loss_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a line of equal_loss.csv."""
    return _quote(line, column, form, place="loss", key=loss_key(line))


def loss_span(line: Line, column: str, form: Callable[[float], str]) -> Span:
    """A number of a line of equal_loss.csv, with its interval."""
    return _span(line, column, form, place="loss", key=loss_key(line))


def loss_key(line: Line) -> str:
    """`arm|budget`."""
    return f"{line['arm']}|{line['budget']:g}"


def curve_quote(line: Line, column: str, form: Callable[[float], str]) -> Quote:
    """A number of a line of the reliability table."""
    return _quote(line, column, form, place="curve", key=curve_key(line))


def line_key(line: Line) -> str:
    """`base|vector|layer|multiplier` of a stacking line; a vector taken elsewhere is named with its source."""
    return f"{curve_key(line)}|{words.dose(line['multiplier'])}"


def curve_key(line: Line) -> str:
    """`base|vector|layer`."""
    vector = str(line["vector"])
    if line.get("vector_model"):
        vector += f"~{line['vector_model']}"
    if line["vector_behavior"] not in ("", line["behavior"]):
        vector += f":{line['vector_behavior']}"
    source, layer = float(line["vector_layer"]), float(line["layer"])
    if not math.isnan(source) and source != layer:
        vector += f"@{source:.0f}"
    return f"{words.named(line['base'], line['base_dose'])}|{vector}|{words.count(layer)}"


def _quote(line: Line, column: str, form: Callable[[float], str], *, place: str, key: str) -> Quote:
    value = float(line[column])
    return Quote(text=form(value), value=value, place=place, key=key, column=column)


def _span(line: Line, column: str, form: Callable[[float], str], *, place: str, key: str) -> Span:
    made = [_quote(line, f"{column}{end}", form, place=place, key=key) for end in ("", "_low", "_high")]
    return Span(point=made[0], low=made[1], high=made[2])
