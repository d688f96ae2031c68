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
Form = Callable[[float], str]


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


def metric_key(line: Line) -> str:
    """`cell|task|metric`."""
    return f"{line['cell']}|{line['task']}|{line['metric']}"


def loss_key(line: Line) -> str:
    """`arm|budget`."""
    return f"{line['arm']}|{line['budget']:g}"


def vector_key(line: Line) -> str:
    """`vector|layer`."""
    return f"{line['vector']}|{words.count(line['layer'])}"


def _of(
    place: str, key: Callable[[Line], str]
) -> tuple[Callable[[Line, str, Form], Quote], Callable[[Line, str, Form], Span]]:
    """What quotes a number of such a line by its column, and what quotes one with its interval."""

    def quote(line: Line, column: str, form: Form) -> Quote:
        value = float(line[column])
        return Quote(text=form(value), value=value, place=place, key=key(line), column=column)

    def span(line: Line, column: str, form: Form) -> Span:
        point, low, high = (quote(line, f"{column}{end}", form) for end in ("", "_low", "_high"))
        return Span(point=point, low=low, high=high)

    return quote, span


cell_quote, cell_span = _of("cell", lambda cell: str(cell["cell"]))
line_quote, line_span = _of("line", line_key)
curve_quote, curve_span = _of("curve", curve_key)
vector_quote, vector_span = _of("vector", vector_key)
metric_quote, metric_span = _of("metric", metric_key)
matched_quote, matched_span = _of("matched", lambda line: str(line["base"]))
loss_quote, loss_span = _of("loss", loss_key)
fit_quote, _ = _of("fit", lambda line: str(line["cell"]))
