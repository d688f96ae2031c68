"""The page's long tables: stacks, letters and option mass, every cell, reliability, items. All numbers are quotes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.cells import LOW_MASS
from caa_bench.analysis.verdict import LOCKED_CAVEAT, MASS_CAVEAT
from caa_bench.report import words
from caa_bench.report.headline import Headline, at_headline, in_recipe_order, measured
from caa_bench.report.quotes import (
    Quote,
    Span,
    cell_quote,
    cell_span,
    curve_key,
    curve_quote,
    curve_span,
    line_key,
    line_quote,
    line_span,
)

if TYPE_CHECKING:
    from caa_bench.report import Report

Cell = Quote | Span | str
BIASED = 0.5  # log-odds


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One line: its key, the names that lead it, its numbers, and what trips a gate in it."""

    place: str
    key: str
    names: tuple[str, ...]
    cells: tuple[Cell, ...]
    flag: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table.

    Args:
        names: heads of the leading name columns.
        heads: heads of the number columns.
        flagged: whether a last column says what trips a gate.
    """

    caption: str
    names: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[GridRow, ...]
    flagged: bool = False


def stacks_grid(report: Report, chosen: Headline, *, everything: bool) -> Grid:
    """Every stacking line of the headline's vector and layer, or of all of them."""
    table = in_recipe_order(measured(report.stacking), report.manifest["recipe"].get("bases", []))
    table = table if everything else at_headline(table, chosen)
    effects = ["alone", "on_top", "interaction", "retention"]
    spoken = "open_ended_on_top" in table
    effects += ["open_ended_on_top"] if spoken else []
    rows = []
    for line in table.to_dict("records"):
        numbers: list[Cell] = [line_span(line, name, words.number) for name in effects]
        numbers += [line_quote(line, "q_value", words.small), line_quote(line, "detectable_effect", words.number)]
        numbers += [line_quote(line, name, words.probability) for name in ("p_before", "p_after", "room")]
        numbers += [line_quote(line, "n", words.count), str(line["family"]), str(line["verdict_text"])]
        rows.append(GridRow(place="line", key=line_key(line), names=_place(line, everything), cells=tuple(numbers)))
    heads = (*effects, "q_value", "detectable_effect", "p_before", "p_after", "room", "n", "family", "verdict")
    units = "log-odds (open_ended: of the score in words, 0-1)" if spoken else "log-odds"
    return Grid(
        caption=f"Effects in {units} in the direction of the dose, with 95% intervals",
        names=("base", "vector", "layer", "dose") if everything else ("base", "dose"),
        heads=heads,
        rows=tuple(rows),
    )


def letters_grid(report: Report, chosen: Headline) -> Grid:
    """Letter bias and option mass of the headline's cells."""
    cells = in_recipe_order(measured(report.cells), report.manifest["recipe"].get("bases", []))
    here = pd.concat([cells[cells["multiplier"] == 0], at_headline(cells, chosen) if chosen.vector else cells.iloc[:0]])
    here = in_recipe_order(
        here.sort_values(["base", "base_dose", "multiplier"]), list(report.manifest["recipe"]["bases"])
    )
    columns: dict[str, Callable[[float], str]] = {
        "letter_bias": words.signed,
        "letter_bias_abs": words.number,
        "letter_locked": words.share,
        "p_given": words.probability,
        "p_swapped": words.probability,
        "option_mass": words.probability,
        "option_mass_min": words.probability,
        "mass_low_share": words.share,
        "p_low_bound": words.probability,
        "p_high_bound": words.probability,
        "n": words.count,
    }
    rows = tuple(
        GridRow(
            place="cell",
            key=str(cell["cell"]),
            names=(
                words.named(cell["base"], cell["base_dose"]),
                words.multiplier(cell["multiplier"]),
            ),
            cells=tuple(cell_quote(cell, name, form) for name, form in columns.items()),
            flag=", ".join(_trips(cell)),
        )
        for cell in here.to_dict("records")
    )
    return Grid(
        caption="Letter bias (log-odds, + prefers A) and option mass, both option orders",
        names=("base", "multiplier"),
        heads=tuple(columns),
        rows=rows,
        flagged=True,
    )


def cells_grid(report: Report) -> Grid:
    """Every cell: levels and shifts with their intervals."""
    cells = in_recipe_order(measured(report.cells), report.manifest["recipe"].get("bases", []))
    shifts = measured(report.shifts).set_index("cell", drop=False)
    rows = []
    for cell in cells.to_dict("records"):
        shift = shifts.loc[cell["cell"]]
        numbers: list[Cell] = [
            cell_span(cell, "p_balanced", words.probability),
            cell_span(cell, "log_odds", words.number),
        ]
        numbers += [cell_span(shift, "shift", words.signed), cell_span(shift, "total", words.signed)]
        numbers += [
            cell_quote(cell, "option_mass", words.probability),
            cell_quote(cell, "saturated_share", words.share),
        ]
        numbers += [cell_quote(cell, name, words.count) for name in ("n", "errors")]
        rows.append(GridRow(place="cell", key=str(cell["cell"]), names=_place(cell, True), cells=tuple(numbers)))
    return Grid(
        caption="Every cell; shift from its own base, total from the unchanged model: log-odds, + towards matching",
        names=("base", "vector", "layer", "multiplier"),
        heads=("p_balanced", "log_odds", "shift", "total", "option_mass", "saturated_share", "n", "errors"),
        rows=tuple(rows),
    )


def reliability_grid(report: Report, chosen: Headline) -> Grid:
    """How evenly the vector steers the items, on each base."""
    table = in_recipe_order(measured(report.reliability), report.manifest["recipe"].get("bases", []))
    rows = []
    for line in at_headline(table, chosen).to_dict("records"):
        key = curve_key(line)
        numbers: list[Cell] = [curve_span(line, "slope", words.signed)]
        numbers += [curve_quote(line, "slope_sd", words.number), curve_quote(line, "rank_correlation", words.signed)]
        numbers += [curve_quote(line, "anti_steerable_share", words.share), curve_quote(line, "n", words.count)]
        rows.append(
            GridRow(place="curve", key=key, names=(words.named(line["base"], line["base_dose"]),), cells=tuple(numbers))
        )
    return Grid(
        caption="Per-item slope of the log-odds over the multiplier; anti-steerable: items whose slope is negative",
        names=("base",),
        heads=("slope", "slope_sd", "rank_correlation", "anti_steerable_share", "n"),
        rows=tuple(rows),
    )


def items_grid(report: Report, chosen: Headline) -> Grid:
    """Every item on the unchanged model: slope, rank correlation and p at every multiplier, the worst slope first."""
    curves = at_headline(measured(report.item_reliability), chosen)
    own = curves[curves["base"] == "none"].sort_values(["slope", "item"], kind="stable")
    cells = measured(report.cells)
    alone = cells[(cells["base"] == "none") & (cells["multiplier"] == 0)]
    here = pd.concat([alone, at_headline(cells[cells["base"] == "none"], chosen)]).sort_values("multiplier")
    scores = report.items[report.items["cell"].isin(here["cell"])].set_index(["cell", "item"])["p_balanced"].to_dict()
    rows = []
    for line in own.to_dict("records"):
        numbers: list[Cell] = [curve_quote(line, name, words.signed) for name in ("slope", "rank_correlation")]
        for cell in here["cell"]:
            p = float(scores.get((cell, line["item"]), float("nan")))
            numbers.append(Quote(text=words.probability(p), value=p, place="cell", key=str(cell), column="p_balanced"))
        flag = "anti-steerable" if line["slope"] < 0 else ""
        rows.append(
            GridRow(place="item", key=str(line["item"]), names=(str(line["item"]),), cells=tuple(numbers), flag=flag)
        )
    doses = (f"p at {words.dose(m)}" if m else "p alone" for m in here["multiplier"])
    return Grid(
        caption="Items on the unchanged model, the least steerable first",
        names=("item",),
        heads=("slope", "rank_correlation", *doses),
        rows=tuple(rows),
        flagged=True,
    )


def _place(line: dict[str, Any], everything: bool) -> tuple[str, ...]:
    base = words.named(line["base"], line["base_dose"])
    dose = words.multiplier(line["multiplier"])
    return (
        (base, str(line["vector"]), words.count(line["layer"]) if line["vector"] else "", dose)
        if everything
        else (base, dose)
    )


def _trips(cell: dict[str, Any]) -> Sequence[str]:
    found = []
    if cell["mass_low_share"] > MASS_CAVEAT:
        found.append(f"option mass under {LOW_MASS:g}")
    if cell["letter_locked"] > LOCKED_CAVEAT:
        found.append("follows the letter")
    if cell["letter_bias_abs"] > BIASED:
        found.append("letter bias")
    return found
