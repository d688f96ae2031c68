"""Rows of any metric -> one line a cell, task and metric: metrics.csv. What is measured beside the behavior.

Items weigh as many units as their value is a sum over, so that a level is a ratio of sums: a perplexity is
exp(-sum of log p / sum of tokens) over all passages, and an accuracy the plain mean. Shapes: N items, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import count_errors
from caa_bench.analysis.fits import effect_sums, sampling
from caa_bench.analysis.frames import CONDITION, RUN, Group, groups
from caa_bench.analysis.intervals import Intervals
from caa_bench.analysis.resample import DRAWS
from caa_bench.analysis.shifts import references
from caa_bench.storage.row_kinds import METRIC_FIELDS

ENDS = ("", "_low", "_high")
COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "task", "metric", "change", "n", "n_clusters", "n_items", "errors", "weight",
    *(f"{name}{end}" for name in ("value", "shift", "total") for end in ENDS), "n_shift", "n_total",
]  # fmt: skip
KEY = ["cell", "task", "metric"]
"""What names one line."""

_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda mean: mean,
    "perplexity": lambda mean: np.exp(-mean),
    "bits": lambda mean: -mean / np.log(2),
}
"""From sum of values / sum of weights to the metric; of a change, for a perplexity, to a ratio."""


def metric_table(
    rows: Sequence[Mapping[str, Any]], cells: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """The level of every metric in every cell, and its change, item by item.

    Args:
        rows: dicts of `row_kinds.METRIC_FIELDS`.
        cells: one line a cell, indexed by `cell`, with the columns of `frames.RUN` and `frames.CONDITION`.

    Returns:
        `COLUMNS`, sorted by task, metric and condition. `change` says what `shift` (from the cell's own base unsteered)
        and `total` (from the unchanged model) are: a `ratio` for a perplexity, a `difference` else; over the items that
        have a value on both sides, `n_shift` and `n_total`. `n` counts items with a value, `errors` those in error,
        `weight` their units (tokens of a perplexity). NaN where nothing was measured, and intervals below 20 items.
    """
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(METRIC_FIELDS))
    parts = []
    for (task, metric, aggregation), own in frame.groupby(["task", "metric", "aggregation"], sort=True):
        scores = own.assign(error=own["error"].notna())
        measured = cells[cells["evaluator"].isin(cells.loc[cells.index.isin(own["cell"]), "evaluator"])]
        for group in groups(scores, measured):
            table = _group_table(group, aggregation, seed=seed, draws=draws)
            parts.append(table.assign(task=task, metric=metric))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _group_table(group: Group, aggregation: str, *, seed: int, draws: int) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    value, weight, how = group.stack("value"), group.stack("weight"), sampling(group, seed=seed, draws=draws)
    level = effect_sums(value, weight, how, within=_range(value, aggregation))
    table["change"] = "ratio" if aggregation == "perplexity" else "difference"
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    table["weight"] = np.where(np.isnan(group.matrix("value")), 0.0, group.matrix("weight")).sum(axis=0)
    _put(table, "value", level, aggregation)
    for name, columns in references(group).items():
        moved = value - group.stack("value", of=columns)
        if ((weight != group.stack("weight", of=columns)) & ~np.isnan(moved)).any():
            raise ValueError("an item weighs differently in two cells: their difference means nothing")
        found = effect_sums(moved, weight, how)
        table[f"n_{name}"] = found.n
        _put(table, name, found, aggregation)
    return table


def _range(value: np.ndarray, aggregation: str) -> tuple[float, float]:
    """Between 0 and 1 where no item's value lies outside, as of an accuracy; nothing is known of other metrics."""
    bounded = aggregation == "mean" and np.nanmin(value, initial=0.0) >= 0 and np.nanmax(value, initial=1.0) <= 1
    return (0.0, 1.0) if bounded else (-np.inf, np.inf)


def _put(table: pd.DataFrame, name: str, found: Intervals, aggregation: str) -> None:
    """The point and its interval on the metric's own scale, the lower end first."""
    scale = _SCALES[aggregation]
    with np.errstate(over="ignore"):  # of a model that says nothing like it: inf, which is what it is
        table[name] = scale(found.point)
        ends = np.array([scale(found.low), scale(found.high)])
    table[f"{name}_low"], table[f"{name}_high"] = ends.min(axis=0), ends.max(axis=0)
