"""Matched doses: which dose of a base alone moves the behavior as far as CAA's own chosen dose. matched.csv.

On the selection split only; what it names is then measured on the test split, beside the base at full strength.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.fairness import Choice, matched_dose
from caa_bench.report import words
from caa_bench.report.columns import WIDTH, columns
from caa_bench.report.directions import Arm, arms_alone
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, measured
from caa_bench.report.quotes import matched_quote, matched_span
from caa_bench.report.retest import retest_command

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.analysis.estimates import Estimate
    from caa_bench.report import Report

COLUMNS = [
    "base", "direction", "base_dose", "cell", "total", "total_low", "total_high", "n", "vector", "layer", "multiplier",
    "target_cell", "target", "target_low", "target_high", "target_n", "gap", "gap_low", "gap_high", "gap_n", "tries",
    "at_edge",
]  # fmt: skip
NOTE = (
    "For each base the dose whose effect alone is nearest to that of the dose chosen for CAA in the same direction, in "
    "log-odds with 95% intervals; gap: between the two, item by item. * the first or last of three or more doses tried."
)


def matched_table(report: Report, chosen: Headline) -> pd.DataFrame:
    """One line a base that pushes somewhere; none on the test split, or where no base has several doses.

    Returns:
        `COLUMNS`: the base's nearest dose with its effect `total`, the target (CAA's chosen dose and what it does
        alone) and the paired `gap`, all log-odds, + towards matching; missing where no dose of CAA qualifies.
    """
    import pandas as pd

    every = list(arms_alone(report, chosen))
    several = any(arm.base and arm.lines["base_dose"].nunique() > 1 for arm in every)
    if report.manifest["recipe"]["split"] != "selection" or not several:
        return pd.DataFrame(columns=COLUMNS)
    choices = {choice.key["multiplier"] > 0: choice for choice in chosen.choices}
    lines = [_line(report, chosen, arm, choices.get(arm.direction > 0)) for arm in every if arm.base]
    return pd.DataFrame(lines, columns=COLUMNS)


def matched_text(report: Report, chosen: Headline) -> str:
    """The printed section: doses, everyone's tries, and the command that measures them on the test split."""
    table = report.matched
    if table.empty:
        return ""
    name = words.vector_name(chosen.vector) or "vector"
    rows = [[_base(line), *map(str, _numbers(line)), _target_dose(line)] for line in table.to_dict("records")]
    rows = [[base, effect, dose, *rest] for base, effect, *rest, dose in rows]
    heads = ["base", "effect alone", name, "its effect", "gap", "n", "tries"]
    parts = [textwrap.fill(f"Matched doses. {NOTE}", WIDTH), columns(heads, rows)]
    parts.append(textwrap.fill(_tries(report, chosen), WIDTH))
    command = retest_command(report, chosen, table)
    return "\n".join([*parts, *([_NEXT, f"  {command}"] if command else [])])


def matched_grid(report: Report, chosen: Headline) -> Grid | None:
    """The page's table."""
    table = report.matched
    if table.empty:
        return None
    rows = tuple(
        GridRow(place="matched", key=str(line["base"]), names=(_base(line), _target_dose(line)), cells=_numbers(line))
        for line in table.to_dict("records")
    )
    name = words.vector_name(chosen.vector)
    return Grid(
        caption=NOTE,
        names=("base", f"dose of {name}"),
        heads=("effect alone", f"effect of {name}", "gap", "n", "tries"),
        rows=rows,
    )


def next_step(report: Report, chosen: Headline) -> dict[str, str]:
    """What the page says under its table: everyone's tries, and the command."""
    command = retest_command(report, chosen, report.matched)
    return {"tries": _tries(report, chosen), "then": _NEXT if command else "", "command": command}


def uneven_tries(report: Report, chosen: Headline) -> tuple[str, str] | None:
    """Severity and text, where the arms had unequal numbers of tries; a note where those that differ had a single one.

    None on the test split, where nothing is chosen, and where there is no base to compare with.
    """
    arms = list(arms_alone(report, chosen))
    tries = {arm.tries for arm in arms}
    if report.manifest["recipe"]["split"] != "selection" or len(tries) < 2 or not any(arm.base for arm in arms):
        return None
    text = f"The arms had unequal numbers of tries on the selection split ({_counted(arms)}): more tries find more."
    return "caution" if len(tries - {1}) > 1 else "note", text


_NEXT = "Then measure the full and the matched dose on the test split:"


def _tries(report: Report, chosen: Headline) -> str:
    return f"Tries on the selection split: {_counted(list(arms_alone(report, chosen)))}."


def _counted(arms: Sequence[Arm]) -> str:
    return ", ".join(f"{arm.name} {arm.tries}" for arm in arms)


def _line(report: Report, chosen: Headline, arm: Arm, choice: Choice | None) -> dict[str, Any]:
    line: dict[str, Any] = {"base": arm.base, "direction": arm.direction, "vector": chosen.vector}
    line["tries"] = arm.tries
    target = None if choice is None else _target(report, chosen, choice)
    found = None if target is None else matched_dose(arm.lines, target=float(target["total"]))
    if target is None or found is None:
        return line
    own = arm.lines[arm.lines["base_dose"] == found.base_dose].iloc[0]
    gap = _gap(report, own["cell"], target["cell"])
    line |= {name: own[name] for name in ("base_dose", "cell", "total", "total_low", "total_high", "n")}
    line |= {name: target[name] for name in ("layer", "multiplier")} | {"target_cell": target["cell"]}
    line |= {f"target{end}": target[f"total{end}"] for end in ("", "_low", "_high")} | {"target_n": target["n"]}
    line |= {"gap": gap.point[0], "gap_low": gap.low[0], "gap_high": gap.high[0], "gap_n": gap.n[0]}
    return line | {"at_edge": found.at_edge}


def _target(report: Report, chosen: Headline, choice: Choice) -> pd.Series:
    shifts = measured(report.shifts)
    here = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector)]
    for column, value in choice.key.items():
        here = here[(here[column] == value) | here[column].isna()]
    return here.iloc[0]


def _gap(report: Report, cell: str, target: str) -> Estimate:
    """y[base] - y[none, CAA's dose], over the items of both."""
    from caa_bench.analysis.cells import macro
    from caa_bench.analysis.estimates import Resampling
    from caa_bench.analysis.frames import grouped
    from caa_bench.analysis.intervals import bootstrap_mean

    used = report.cells[report.cells["cell"].isin([cell, target])]
    (group,) = grouped(report.items, used)
    values, places = group.mean("log_odds"), list(group.cells["cell"])
    moved = values[:, [places.index(cell)]] - values[:, [places.index(target)]]
    recipe = report.manifest["recipe"]
    how = Resampling(seed=recipe["seed"], draws=recipe["draws"])
    return bootstrap_mean(macro(moved, group.categories), group.clusters, how=how)


def _base(line: dict[str, Any]) -> str:
    if line["base_dose"] != line["base_dose"]:
        return str(line["base"])
    return words.named(line["base"], line["base_dose"]) + ("*" if line["at_edge"] is True else "")


def _target_dose(line: dict[str, Any]) -> str:
    return words.NA if line["multiplier"] != line["multiplier"] else words.dose(line["multiplier"])


def _numbers(line: dict[str, Any]) -> tuple[Cell, ...]:
    spans: list[Cell] = [matched_span(line, name, words.signed) for name in ("total", "target", "gap")]
    return (*spans, *(matched_quote(line, name, words.count) for name in ("gap_n", "tries")))
