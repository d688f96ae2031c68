"""The vector alone, layer by layer: where steering works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.headline import Headline, measured
from caa_bench.report.quotes import Quote, Span, cell_quote, cell_span

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class LayerLine:
    """One layer on the unchanged model.

    Args:
        mark: `*` where it leads.
        shifts: at each of the headline's doses; None where it was not run.
        masses: the option mass there.
    """

    layer: float
    mark: str
    shifts: tuple[Span | None, ...]
    masses: tuple[Quote | str, ...]


def layer_lines(report: Report, chosen: Headline) -> list[LayerLine]:
    """One line a layer, ascending."""
    shifts = measured(report.shifts)
    alone = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    by_place = {(x["layer"], x["multiplier"]): x for x in alone.to_dict("records")}
    lines = []
    for layer in chosen.layers:
        cells = [by_place.get((layer, dose)) for dose in chosen.doses]
        lines.append(
            LayerLine(
                layer=layer,
                mark="*" if layer == chosen.layer else "",
                shifts=tuple(None if c is None else cell_span(c, "shift", words.signed) for c in cells),
                masses=tuple(words.NA if c is None else cell_quote(c, "option_mass", words.probability) for c in cells),
            )
        )
    return lines
