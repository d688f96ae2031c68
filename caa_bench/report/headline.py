"""What of a run leads: one vector, one layer, and one dose a direction; and the lines of a table that are of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from caa_bench.analysis.fairness import MOST_LOSS, Choice, choose_dose
from caa_bench.analysis.frames import CONDITION
from caa_bench.analysis.intervals import can_show_loss
from caa_bench.evaluators import registry
from caa_bench.runs.record import RunRecord
from caa_bench.runs.tuning_items import tuned_on
from caa_bench.runs.tuning_record import dose_unit

MEASURE = "answer_probability"
CAPABILITY = "capability"
OPEN_ENDED = "open_ended"

Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What leads.

    Args:
        vector: the first vector that is no placebo; "" where none was run.
        layer: the layer that leads; None without one.
        layer_reason: why this one.
        layers: every layer it was run at.
        doses: at most one negative and one positive multiplier, those nearest to 1, ascending.
        choices: on the selection split, the best (layer, multiplier) of each direction, by `fairness.choose_dose`.
        defaulted: several layers were run on the selection split and none of them qualified.
        bases: (base, base_dose), in the recipe's order.
    """

    vector: str
    layer: float | None
    layer_reason: str
    layers: tuple[float, ...]
    doses: tuple[float, ...]
    choices: tuple[Choice, ...]
    defaulted: bool
    bases: tuple[tuple[str, float], ...]


def find_headline(record: RunRecord, every: pd.DataFrame) -> Headline:
    """What leads in a run; nothing is ever chosen by the results of the test split.

    Args:
        every: the shifts of all evaluators (shifts.csv).
    """
    shifts = in_order(_asked(record, every), record.bases)
    bases = tuple(dict.fromkeys(zip(shifts["base"], shifts["base_dose"], strict=True))) or (("none", 1.0),)
    vector = next((name for name in record.vectors if name not in record.placebos), "")
    steered = shifts[(shifts["vector"] == vector) & (shifts["vector"] != "")]
    if steered.empty:
        return Headline(
            vector="", layer=None, layer_reason="", layers=(), doses=(), choices=(), defaulted=False, bases=bases
        )
    layers = tuple(sorted(steered["layer"].dropna().unique()))
    selection = record.split == "selection" and len(measured(every)) > 0
    choices = _choices(steered, every) if selection else ()
    layer, reason = _layer(record, layers, choices, cost=_not_shown(every))
    if vector in record.tuning.get("settled", {}):
        reason = f"tuned on {tuned_on(record.tuning)}"
    here = steered if layer is None else steered[steered["layer"] == layer]
    unit = dose_unit(record.tuning, vector)
    doses = (_nearest(here["multiplier"].tolist(), unit=unit, sign=sign) for sign in (-1, 1))
    return Headline(
        vector=vector,
        layer=layer,
        layer_reason=reason,
        layers=layers,
        doses=tuple(dose for dose in doses if dose is not None),
        choices=choices,
        defaulted=selection and len(layers) > 1 and not choices,
        bases=bases,
    )


def measured(table: pd.DataFrame, evaluator: str = MEASURE) -> pd.DataFrame:
    """The lines of one evaluator: of the answer probability, which verdicts are about."""
    return table[table["evaluator"] == evaluator] if "evaluator" in table else table


def of_behavior(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of evaluators that measure the behavior itself."""
    beside = [name for name, evaluator in registry().items() if not evaluator.of_behavior]
    return table[~table["evaluator"].isin(beside)]


def in_order(table: pd.DataFrame, bases: Sequence[str]) -> pd.DataFrame:
    """The lines with the bases in the recipe's order; bases that it does not name come last."""
    place = {base: number for number, base in enumerate(bases)}
    return table.sort_values("base", key=lambda column: column.map(place).fillna(len(place)), kind="stable")


def at_headline(table: pd.DataFrame, chosen: Headline) -> pd.DataFrame:
    """The headline vector's lines at the headline layer, taken at that same layer."""
    here = table[(table["vector"] == chosen.vector) & (table["vector"] != "")]
    if chosen.layer is None:
        return here
    here = here[here["layer"] == chosen.layer]
    own = here[here["vector_layer"].isna() | (here["vector_layer"] == chosen.layer)]
    return own if len(own) else here


def condition_of(line: Mapping[str, Any]) -> Key:
    """What two lines of one condition have in common, whatever was measured; a missing layer equals another."""
    return tuple(None if line[name] != line[name] else line[name] for name in CONDITION)


def by_condition(table: pd.DataFrame, evaluator: str) -> dict[Key, dict[str, Any]]:
    """One evaluator's lines of cells or shifts, by condition; none where it was not measured."""
    return {condition_of(line): line for line in measured(table, evaluator).to_dict("records")}


def with_capability_loss(shifts: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """The lines with the most capability that each condition may cost against the unchanged model: the upper end of
    the loss's interval, or the loss itself of questions too few to show a small one (0-1; NaN: not measured)."""
    found = by_condition(every, CAPABILITY)
    end = "total_p_low" if shows_loss(every) else "total_p"
    lost = [-found.get(condition_of(line), {}).get(end, float("nan")) for line in shifts.to_dict("records")]
    return shifts.assign(capability_loss_high=lost)


def shows_loss(every: pd.DataFrame) -> bool:
    """Whether the run's capability questions are enough to show that a loss is small."""
    asked = measured(every, CAPABILITY)
    return len(asked) > 0 and can_show_loss(int(asked["n_clusters"].max()), MOST_LOSS)


def direction(base: str, total: float) -> int:
    """Which way a base is meant to push: +1, -1, or 0 for a neutral one.

    By its name; a base of the user's own by what it does, `total` (log-odds against the unchanged model).
    """
    named = {"_positive": 1, "_negative": -1, "_neutral": 0}
    return next((sign for ending, sign in named.items() if base.endswith(ending)), -1 if total < 0 else 1)


def _asked(record: RunRecord, every: pd.DataFrame) -> pd.DataFrame:
    """The shifts of the answer probability; where a run has none of it, what it was planned to measure instead."""
    shifts = measured(every)
    if len(shifts):
        return shifts
    cells = pd.DataFrame(record.cells)
    return cells[cells["evaluator"] == cells["evaluator"].iloc[0]].assign(shift=float("nan"))


def _choices(steered: pd.DataFrame, every: pd.DataFrame) -> tuple[Choice, ...]:
    """The best dose of each direction on the unchanged model.

    The gate on the option mass is relative to the unchanged model's own: a model of whose answers only .77 are letters
    without steering could never pass an absolute one.
    """
    asked = measured(every)
    plain = asked[(asked["base"] == "none") & (asked["multiplier"] == 0)]["option_mass"]
    own = with_capability_loss(steered[steered["base"] == "none"], every)
    if len(plain) == 1:
        own = own.assign(option_mass=own["option_mass"] / plain.item())
    found = [choose_dose(own, sign=sign) for sign in (1, -1) if len(own)]
    return tuple(choice for choice in found if choice is not None)


def _layer(
    record: RunRecord, layers: tuple[float, ...], choices: tuple[Choice, ...], *, cost: str
) -> tuple[float | None, str]:
    """The layer that leads, and why. What is chosen by default is never said to be chosen by results."""
    if not layers:
        return None, ""
    if len(layers) == 1:
        return layers[0], "the only one run"
    if choices:
        best = max(choices, key=lambda choice: choice.shift)
        return best.key["layer"], f"the largest shift on the selection split, {best.tries} tries{cost}"
    default = record.layers.get("default")
    name = f"the {'model' + chr(39) + 's default' if default in layers else 'first'} of {len(layers)} layers run"
    if record.split == "selection":
        return (float(default) if default in layers else layers[0]), f"{name}, as no layer qualified"
    return (float(default) if default in layers else layers[0]), f"{name}; nothing is chosen on the test split"


def _not_shown(every: pd.DataFrame) -> str:
    """What a choice could not know of its cost; "" where it could."""
    if shows_loss(every):
        return ""
    asked = measured(every, CAPABILITY)
    if asked.empty:
        return "; not checked for cost, capability was not measured"
    return (
        f"; {int(asked['n'].max())} capability questions cannot show that it costs little, so the loss itself decided"
    )


def _nearest(multipliers: list[float], *, unit: float, sign: int) -> float | None:
    """The multiplier nearest to the tuned one, 1 where nothing was tuned, of one direction."""
    pushed = sorted({m for m in multipliers if m * sign > 0}, key=lambda m: (abs(abs(m) - unit), abs(m)))
    return pushed[0] if pushed else None
