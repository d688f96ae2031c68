"""Effect at equal capability loss: the largest shift of each arm alone among the doses that cost no more.

Written to equal_loss.csv. A description of the doses that a run has measured; nothing is chosen by it.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.fairness import BUDGETS, effect_at_equal_loss
from caa_bench.report import words
from caa_bench.report.columns import WIDTH, columns
from caa_bench.report.conditions import capability_lines, condition_of
from caa_bench.report.directions import Arm, arms_alone
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline
from caa_bench.report.quotes import loss_key, loss_quote, loss_span

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

COLUMNS = [
    "arm", "budget", "doses", "direction", "base", "base_dose", "layer", "multiplier", "cell", "total", "total_low",
    "total_high", "n", "capability_cell", "total_p", "total_p_low", "total_p_high", "capability_n",
]  # fmt: skip
NOTE = (
    "The largest shift of each arm alone, in its own direction, among all doses measured here that lose no more than "
    "so much p(correct): a description, nothing is chosen by it. Log-odds, + towards matching; 95% intervals; the loss "
    "is compared by the upper end of its interval."
)


def equal_loss_table(report: Report, chosen: Headline) -> pd.DataFrame:
    """One line an arm and budget, for arms whose capability was measured; none where it was not.

    Returns:
        `COLUMNS`: `budget` (of p(correct), 0-1), `doses` within it, then the one with the largest effect: its shift
        `total` (log-odds) and its change of p(correct) `total_p`; missing where no dose is within the budget.
    """
    import pandas as pd

    asked = capability_lines(report.shifts)
    lines = [line for arm in arms_alone(report, chosen) for line in _lines(arm, asked)]
    if not lines:
        return pd.DataFrame(columns=COLUMNS)
    found = effect_at_equal_loss(pd.DataFrame(lines), budgets=BUDGETS)
    return found[COLUMNS]


def equal_loss_text(report: Report, chosen: Headline) -> str:
    """The long printed table."""
    table = [
        [line["arm"], _budget(line), _dose(line, chosen), *map(str, _numbers(line))]
        for line in report.equal_loss.to_dict("records")
    ]
    heads = ["arm", "loss up to", "at", "shift", "n", "change of p(correct)", "n", "doses"]
    title = textwrap.fill(f"Effect at equal capability loss. {NOTE}", WIDTH)
    return f"{title}\n{columns(heads, table)}" if table else ""


def equal_loss_grid(report: Report, chosen: Headline) -> Grid | None:
    """The page's table."""
    rows = []
    for line in report.equal_loss.to_dict("records"):
        names = (str(line["arm"]), _budget(line), _dose(line, chosen))
        rows.append(GridRow(place="loss", key=loss_key(line), names=names, cells=_numbers(line)))
    if not rows:
        return None
    heads = ("shift", "n", "change of p(correct)", "n of capability", "doses within")
    return Grid(caption=NOTE, names=("arm", "loss up to", "at"), heads=heads, rows=tuple(rows))


def _lines(arm: Arm, asked: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for line in arm.lines.to_dict("records"):
        lost = asked.get(condition_of(line))
        if lost is not None:
            own = {name: line[name] for name in ("base", "base_dose", "layer", "multiplier", "cell", "n")}
            own |= {f"total{end}": line[f"total{end}"] for end in ("", "_low", "_high")}
            own |= {f"total_p{end}": lost[f"total_p{end}"] for end in ("", "_low", "_high")}
            own |= {"capability_cell": lost["cell"], "capability_n": lost["n"]}
            own |= {
                "effect": arm.direction * line["total"],
                "capability_loss": -lost["total_p"],
                "capability_loss_high": -lost["total_p_low"],
            }
            found.append({"arm": arm.name, "direction": arm.direction} | own)
    return found


def _numbers(line: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        loss_span(line, "total", words.signed),
        loss_quote(line, "n", words.count),
        loss_span(line, "total_p", words.signed),
        loss_quote(line, "capability_n", words.count),
        loss_quote(line, "doses", words.count),
    )


def _budget(line: dict[str, Any]) -> str:
    return f"{line['budget']:g}".removeprefix("0")


def _dose(line: dict[str, Any], chosen: Headline) -> str:
    """Where it is reached: `+1`, `+1, layer 3` in a sweep, `x0.25` of a base."""
    if line["base_dose"] != line["base_dose"]:
        return words.NA
    if line["base"] != "none":
        return f"x{line['base_dose']:g}"
    layer = f", layer {words.count(line['layer'])}" if len(chosen.layers) > 1 else ""
    return f"{words.dose(line['multiplier'])}{layer}"
