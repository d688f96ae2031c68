"""What of a run leads: one evaluator, one vector, one layer, and one dose a direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.analysis.fairness import Choice, choose_dose
from caa_bench.interventions import registry
from caa_bench.report.conditions import with_capability_loss
from caa_bench.runs.tuning_record import dose_unit

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

MEASURE = "answer_probability"


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What leads.

    Args:
        vector: the first vector that is no placebo; "" where none was run.
        layer: the layer that leads; None without one.
        layer_reason: why this one.
        layers: every layer it was run at.
        doses: at most one negative and one positive multiplier, ascending.
        choices: on the selection split, the best (layer, multiplier) of each direction, by `fairness.choose_dose`.
        bases: (base, base_dose), in the recipe's order.
    """

    vector: str
    layer: float | None
    layer_reason: str
    layers: tuple[float, ...]
    doses: tuple[float, ...]
    choices: tuple[Choice, ...]
    bases: tuple[tuple[str, float], ...]


def headline(report: Report) -> Headline:
    """What leads in this run; nothing is ever chosen by the results of the test split."""
    shifts = in_recipe_order(_asked(report), report.manifest["recipe"].get("bases", []))
    bases = tuple(dict.fromkeys(zip(shifts["base"], shifts["base_dose"], strict=True)))
    vector = next((name for name in report.manifest["recipe"].get("vectors", []) if name not in placebos()), "")
    steered = shifts[(shifts["vector"] == vector) & (shifts["vector"] != "")]
    if steered.empty:
        return Headline(
            vector="", layer=None, layer_reason="", layers=(), doses=(), choices=(), bases=bases or (("none", 1.0),)
        )
    layers = tuple(sorted(steered["layer"].dropna().unique()))
    choices = _choices(with_capability_loss(steered, report.shifts)) if len(measured(report.shifts)) else ()
    tuning = report.manifest["facts"].get("tuning", {})
    layer, reason = _layer(layers, choices, default=report.manifest["facts"].get("layers", {}).get("default"))
    here = steered if layer is None else steered[steered["layer"] == layer]
    if vector in tuning.get("settled", {}):
        reason = "tuned on the selection split"
    unit, tested = dose_unit(tuning, vector), here["multiplier"].tolist()
    doses = tuple(dose for sign in (-1, 1) if (dose := _nearest(tested, unit=unit, sign=sign)) is not None)
    return Headline(
        vector=vector, layer=layer, layer_reason=reason, layers=layers, doses=doses, choices=choices, bases=bases
    )


def placebos() -> list[str]:
    """Vectors that mean nothing: interventions that copy another one's norm."""
    return [name for name, cls in registry().items() if cls.placebo_of]


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the answer probability, which this report is about."""
    return table[table["evaluator"] == MEASURE] if "evaluator" in table else table


def items_asked(report: Report) -> tuple[int, int]:
    """Items of the largest A/B cell, and their clusters; 0 where there was no A/B test."""
    cells = measured(report.cells)
    return (int(cells["n"].max()), int(cells["n_clusters"].max())) if len(cells) else (0, 0)


def in_recipe_order(table: pd.DataFrame, bases: list[str]) -> pd.DataFrame:
    """The lines with the bases in the recipe's order; bases that it does not name come last."""
    place = {base: number for number, base in enumerate(bases)}
    return table.sort_values("base", key=lambda column: column.map(place).fillna(len(place)), kind="stable")


def at_headline(table: pd.DataFrame, chosen: Headline) -> pd.DataFrame:
    """The headline vector's lines at the headline layer, taken at that same layer."""
    here = table[table["vector"] == chosen.vector]
    if chosen.layer is None:
        return here
    here = here[here["layer"] == chosen.layer]
    own = here[here["vector_layer"].isna() | (here["vector_layer"] == chosen.layer)]
    return own if len(own) else here


def _asked(report: Report) -> pd.DataFrame:
    """The shifts of the answer probability; where a run has none of it, what it was planned to measure instead."""
    import pandas as pd

    shifts = measured(report.shifts)
    if len(shifts):
        return shifts
    cells = pd.DataFrame(report.manifest["facts"]["cells"])
    return cells[cells["evaluator"] == cells["evaluator"].iloc[0]].assign(shift=float("nan"))


def leading(table: pd.DataFrame, chosen: Headline, bases: list[str]) -> pd.DataFrame:
    """The bases alone and the headline vector's lines, base by base in the recipe's order, by ascending dose."""
    steered = at_headline(table, chosen) if chosen.vector else table.iloc[:0]
    here = table[(table["multiplier"] == 0) | table.index.isin(steered.index)]
    return in_recipe_order(here.sort_values(["base_dose", "multiplier"], kind="stable"), bases)


def _choices(steered: pd.DataFrame) -> tuple[Choice, ...]:
    selection = steered[(steered["split"] == "selection") & (steered["base"] == "none")]
    found = [choose_dose(selection, sign=sign) for sign in (1, -1) if len(selection)]
    return tuple(choice for choice in found if choice is not None)


def _layer(
    layers: tuple[float, ...], choices: tuple[Choice, ...], *, default: float | None
) -> tuple[float | None, str]:
    if not layers:
        return None, ""
    if len(layers) == 1:
        return layers[0], "the only one run"
    if choices:
        best = max(choices, key=lambda choice: choice.shift)
        return best.key["layer"], f"the largest shift on the selection split, {best.tries} tries"
    if default in layers:
        return float(default), f"the model's default, of {len(layers)} run"
    return layers[0], f"the first of {len(layers)} run"


def _nearest(multipliers: list[float], *, unit: float, sign: int) -> float | None:
    """The multiplier nearest to the tuned one, 1 where nothing was tuned, of one direction."""
    pushed = sorted({m for m in multipliers if m * sign > 0}, key=lambda m: (abs(abs(m) - unit), abs(m)))
    return pushed[0] if pushed else None
