"""Rows of any metric -> one line a cell, task and metric: metrics.csv. What is measured beside the behavior.

Items weigh as many units as their value is a sum over, so that a level is a ratio of sums: a perplexity is
exp(-sum of log p / sum of tokens) over all passages, and an accuracy the plain mean. Shapes: N items, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import count_errors, moved
from caa_bench.analysis.effects import design_of
from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling
from caa_bench.analysis.fits import effect_sums
from caa_bench.analysis.frames import CONDITION, RUN, Group, grouped
from caa_bench.storage.row_kinds import METRIC_FIELDS

COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "task", "metric", "change", "n", "n_clusters", "n_items", "errors", "weight",
    *Estimate.columns("value", "shift", "total"), "n_shift", "n_total",
]  # fmt: skip
KEY = ["cell", "task", "metric"]
"""What names one line."""

_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda mean: mean,
    "perplexity": lambda mean: np.exp(-mean),
    "bits": lambda mean: -mean / np.log(2),
}
"""From sum of values / sum of weights to the metric; of a change, for a perplexity, to a ratio."""


def metric_table(rows: Sequence[Mapping[str, Any]], cells: pd.DataFrame, *, how: Resampling = STANDARD) -> pd.DataFrame:
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
        for group in grouped(scores, measured):
            parts.append(_of_one(group, aggregation, how).assign(task=task, metric=metric))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _of_one(group: Group, aggregation: str, how: Resampling) -> pd.DataFrame:
    """The lines of one task and metric."""
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    value, weight, design = group.by_fit("value"), group.by_fit("weight"), design_of(group, how)
    level = effect_sums(value, weight, design, within=_range(value, aggregation))
    table["change"] = "ratio" if aggregation == "perplexity" else "difference"
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    table["weight"] = np.where(np.isnan(group.mean("value")), 0.0, group.mean("weight")).sum(axis=0)
    with np.errstate(over="ignore"):  # of a model that says nothing like it: inf, which is what it is
        level.transformed(_SCALES[aggregation]).put(table, "value")
        heavier = moved(group, "weight")
        for name, change in moved(group, "value").items():
            if ((heavier[name] != 0) & ~np.isnan(change)).any():
                raise ValueError("an item weighs differently in two cells: their difference means nothing")
            found = effect_sums(change, weight, design)
            table[f"n_{name}"] = found.n
            found.transformed(_SCALES[aggregation]).put(table, name)
    return table


def _range(value: np.ndarray, aggregation: str) -> tuple[float, float]:
    """Between 0 and 1 where no item's value lies outside, as of an accuracy; nothing is known of other metrics."""
    bounded = aggregation == "mean" and np.nanmin(value, initial=0.0) >= 0 and np.nanmax(value, initial=1.0) <= 1
    return (0.0, 1.0) if bounded else (-np.inf, np.inf)
