"""The tables on stdout: levels of p(matching) by base and dose, then how CAA stacks on each base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.files import terminal_safe

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

PLACEBOS = ("random", "shuffled")


def render(report: Report) -> str:
    """Head, levels, stacking, placebos and warnings; plain text that fits a terminal of 120 columns."""
    order = report.manifest["recipe"].get("bases", [])
    cells, stacking = in_recipe_order(report.cells, order), in_recipe_order(report.stacking, order)
    parts = [_head(report), _levels(cells), _stacking(stacking), _placebos(cells), _warnings(report)]
    text = "\n\n".join(part for part in parts if part)
    return "\n".join(terminal_safe(line).rstrip() for line in text.split("\n"))


def in_recipe_order(table: pd.DataFrame, bases: Sequence[str]) -> pd.DataFrame:
    """The lines with the bases in the recipe's order; bases that it does not name come last."""
    place = {base: number for number, base in enumerate(bases)}
    return table.sort_values("base", key=lambda column: column.map(place).fillna(len(place)), kind="stable")


def _head(report: Report) -> str:
    behavior, recipe = report.manifest["facts"]["behavior"], report.manifest["recipe"]
    shown = report.cells.iloc[0]
    orders = "given option order only" if recipe["protocol"] == "caa" else "both option orders"
    return (
        f"{behavior['title']} on {recipe['model']}: {recipe['split']} split, {shown['n']} items in "
        f"{shown['n_clusters']} clusters, {orders}\n"
        f"matching means: {behavior['matching']}"
    )


def _levels(cells: pd.DataFrame) -> str:
    """p(matching) with its interval, one line a base and layer, one column a multiplier."""
    steered = cells[~cells["vector"].isin(PLACEBOS)]
    multipliers = sorted(steered["multiplier"].unique())
    rows = []
    for (base, dose), group in steered.groupby(["base", "base_dose"], sort=False):
        for layer in sorted(group["layer"].dropna().unique()) or [math.nan]:
            at = group[(group["layer"] == layer) | group["layer"].isna()].set_index("multiplier")
            named = f"{base} x{dose:g}" if dose != 1 else str(base)
            texts = [_level(at.loc[m]) if m in at.index else "" for m in multipliers]
            rows.append([named, "" if math.isnan(layer) else f"{layer:.0f}", *texts])
    head = ["base", "layer", *(f"CAA {m:+g}" if m else "alone" for m in multipliers)]
    return "p(matching), 95% interval\n" + columns(head, rows)


def _stacking(table: pd.DataFrame) -> str:
    """A line a base and dose: alone, on top, share kept, p before and after, verdict."""
    shown = table[~table["vector"].isin(PLACEBOS)] if len(table) else table
    if not len(shown):
        return ""
    rows = [
        [
            str(line["base"]) + ("" if line["base_dose"] == 1 else f" x{line['base_dose']:g}"),
            f"{line['layer']:.0f}",
            f"{line['multiplier']:+g}",
            interval(line, "caa_alone"),
            interval(line, "caa_on_top"),
            interval(line, "retention"),
            f"{probability(line['p_before'])} -> {probability(line['p_after'])}",
            str(line["verdict_text"]),
        ]
        for line in shown.to_dict("records")
    ]
    head = ["base", "layer", "dose", "CAA alone", "CAA on top", "retention", "p", "verdict"]
    return "How CAA stacks: effect in log-odds in the dose's own direction, 95% interval\n" + columns(head, rows)


def _placebos(cells: pd.DataFrame) -> str:
    """The largest move of p that each placebo makes on any base, with the cell it was seen in."""
    alone = cells[cells["vector"] == ""].set_index(["base", "base_dose"])["p_balanced"]
    lines = []
    for name in PLACEBOS:
        own = cells[cells["vector"] == name]
        if len(own):
            before = alone.loc[list(zip(own["base"], own["base_dose"], strict=True))].to_numpy()
            moves = (own["p_balanced"] - before).reset_index(drop=True)
            worst = int(moves.abs().idxmax())
            cell = own.iloc[worst]
            lines.append(f"  {name}: {moves[worst]:+.3f} (on {cell['base']} at {cell['multiplier']:+g}, n {cell['n']})")
    return "\n".join(["Placebo vectors of equal norm, largest move of p", *lines]) if lines else ""


def _warnings(report: Report) -> str:
    found = report.manifest["facts"]["warnings"]
    return "\n".join([f"Warnings: {len(found)}", *(f"  {line}" for line in found)]) if found else ""


def _level(cell: Any) -> str:
    level, low, high = (probability(cell[name]) for name in ("p_balanced", "p_balanced_low", "p_balanced_high"))
    return f"{level} [{low}, {high}]"


def interval(line: Any, name: str) -> str:
    """`1.20 [0.90, 1.50]`; n/a where there is no number."""
    low, high = number(line[f"{name}_low"]), number(line[f"{name}_high"])
    return f"{number(line[name])} [{low}, {high}]" if not math.isnan(line[name]) else "n/a"


def number(value: float) -> str:
    """Two decimals, or n/a."""
    return "n/a" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def probability(value: float) -> str:
    """`.84`; three digits near 0 and 1, where two would hide the value."""
    if math.isnan(value):
        return "n/a"
    text = f"{value:.3f}" if value < 0.005 or value > 0.995 else f"{value:.2f}"
    return text.removeprefix("0")


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  " + "  ".join(line) for line in padded)
