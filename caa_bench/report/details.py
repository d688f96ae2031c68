"""The long tables of table.txt: every level, and every stacking line with all its effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.columns import columns, level_text
from caa_bench.report.headline import in_recipe_order, measured

if TYPE_CHECKING:
    from caa_bench.report import Report


def every_level(report: Report) -> str:
    """p(matching) of every cell, one line a base, vector and layer, one column a multiplier."""
    cells = in_recipe_order(measured(report.cells), report.manifest["recipe"].get("bases", []))
    steered = cells[cells["vector"] != ""]
    if steered.empty:
        return ""
    multipliers = sorted(steered["multiplier"].unique())
    lines = []
    for (base, dose, vector, layer), part in steered.groupby(["base", "base_dose", "vector", "layer"], sort=False):
        at = part.set_index("multiplier")
        levels = [level_text(at.loc[m]) if m in at.index else "" for m in multipliers]
        lines.append([words.named(base, dose), vector, words.count(layer), *levels])
    heads = ["base", "vector", "layer", *map(words.dose, multipliers)]
    return "Every cell: p(matching), 95% interval\n" + columns(heads, lines)


def every_stack(report: Report) -> str:
    """Every line of stacking.csv in its own words; effects in the direction of the dose."""
    stacking = in_recipe_order(measured(report.stacking), report.manifest["recipe"].get("bases", []))
    if stacking.empty:
        return ""
    effects = ["alone", "on_top", "interaction", "retention"]
    spoken = "open_ended_on_top" in stacking
    effects += ["open_ended_on_top"] if spoken else []
    lines = [
        [
            words.named(line["base"], line["base_dose"]),
            str(line["vector"]),
            words.count(line["layer"]),
            words.dose(line["multiplier"]),
            *(words.interval(line, name) for name in effects),
            words.small(line["q_value"]),
            line["family"],
            line["verdict_text"],
        ]
        for line in stacking.to_dict("records")
    ]
    heads = ["base", "vector", "layer", "dose", *effects, "q_value", "family", "verdict"]
    units = "log-odds (open_ended: of the score in words, 0-1)" if spoken else "log-odds"
    title = f"Every stack: effects in {units} in the direction of the dose, 95% interval"
    return f"{title}\n{columns(heads, lines)}"
