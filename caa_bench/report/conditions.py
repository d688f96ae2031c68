"""The same condition measured by another evaluator: what an arm costs, beside what it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.frames import CONDITION
from caa_bench.evaluators import registry

if TYPE_CHECKING:
    import pandas as pd

CAPABILITY = "capability"

Key = tuple[Any, ...]


def condition_of(line: Mapping[str, Any]) -> Key:
    """What two lines of one condition have in common, whatever was measured; a missing layer equals another."""
    return tuple(None if line[name] != line[name] else line[name] for name in CONDITION)


def capability_lines(table: pd.DataFrame) -> dict[Key, dict[str, Any]]:
    """The capability's lines of cells or shifts, by condition; none where it was not measured."""
    return {condition_of(line): line for line in table[table["evaluator"] == CAPABILITY].to_dict("records")}


def with_capability_loss(shifts: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """The lines with the most that each condition may cost against the unchanged model: the interval's upper end.

    0-1; NaN where it was not measured, or on too few items for an interval.
    """
    found = capability_lines(every)
    lost = [-found.get(condition_of(line), {}).get("total_p_low", float("nan")) for line in shifts.to_dict("records")]
    return shifts.assign(capability_loss_high=lost)


def of_behavior(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of evaluators that measure the behavior itself."""
    beside = [name for name, evaluator in registry().items() if not evaluator.of_behavior]
    return table[~table["evaluator"].isin(beside)]
