"""Tidy keys and [items, cells] matrices: what every table is computed from, in one fixed order.

Everything is sorted by its keys first, so that the order in which rows were written cannot reach a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.items import category_of

RUN = ["model", "protocol", "split", "evaluator", "behavior"]
VECTOR = ["vector", "vector_behavior", "vector_model", "vector_layer", "layer"]
CONDITION = ["base", "base_dose", *VECTOR, "multiplier"]
DEFAULTS = {
    "evaluator": "answer_probability", "protocol": "balanced", "split": "test", "model": "", "fit": "",
    "vector_model": "",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells of one model, split, evaluator and behavior, with the items they share.

    Args:
        keys: the values of `RUN`.
        cells: one line a cell, sorted by condition; its position is the column of every matrix. [C]
        scores: the item scores of these cells.
        items: sorted item ids. [N]
        clusters: 0-based cluster code of each item, in the sorted order of the cluster names. [N]
        categories: 0-based category code of each item (`items.category_of`). [N]
    """

    keys: dict[str, str]
    cells: pd.DataFrame
    scores: pd.DataFrame
    items: pd.Index
    clusters: np.ndarray
    categories: np.ndarray

    def matrix(self, column: str) -> np.ndarray:
        """One score as [N, C] float64; NaN where the item has no row or an error in that cell."""
        out = np.full((len(self.items), len(self.cells)), np.nan)
        rows = self.items.get_indexer(self.scores["item"])
        out[rows, pd.Index(self.cells["cell"]).get_indexer(self.scores["cell"])] = self.scores[column].to_numpy(float)
        return out


def tidy_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with one spelling per missing value and a plain index: `cell` a column, sorted by run and condition."""
    tidy = cells.reset_index() if cells.index.name == "cell" else cells.reset_index(drop=True).copy()
    for column, value in DEFAULTS.items():
        tidy[column] = tidy[column].fillna(value) if column in tidy else value
    for column in ("vector", "vector_behavior", "fit"):
        tidy[column] = tidy[column].fillna("").astype(str)
    for column in ("base_dose", "vector_layer", "layer", "multiplier"):
        tidy[column] = pd.to_numeric(tidy[column], errors="coerce").astype(float) + 0.0  # -0.0 and 0.0 are one key
    tidy.loc[tidy["base"] == "none", "base_dose"] = 1.0
    unsteered = tidy["multiplier"] == 0
    tidy.loc[unsteered, ["vector", "vector_behavior", "vector_model"]] = ""
    tidy.loc[unsteered, ["vector_layer", "layer"]] = np.nan
    return tidy.sort_values([*RUN, *CONDITION, "fit", "cell"], na_position="first", kind="stable", ignore_index=True)


def groups(scores: pd.DataFrame, cells: pd.DataFrame) -> Iterator[Group]:
    """One `Group` per model, protocol, split, evaluator and behavior, sorted.

    Raises:
        ValueError: an item is scored twice in one cell, or stands in two clusters.
    """
    if scores.duplicated(["cell", "item"]).any():
        raise ValueError("item scores hold an item twice in one cell")
    for keys, part in tidy_cells(cells).groupby(RUN, sort=True, dropna=False):
        part = part.reset_index(drop=True)
        here = scores[scores["cell"].isin(part["cell"])]
        cluster = here[["item", "cluster"]].drop_duplicates().sort_values("item").set_index("item")["cluster"]
        if cluster.index.has_duplicates:
            raise ValueError(f"{keys}: an item stands in two clusters: {cluster.index[cluster.index.duplicated()][0]}")
        yield Group(
            keys=dict(zip(RUN, keys, strict=True)),
            cells=part,
            scores=here,
            items=cluster.index,
            clusters=_codes(cluster.astype(str)),
            categories=_codes(cluster.index.astype(str).map(category_of)),
        )


def _codes(names: pd.Series | pd.Index) -> np.ndarray:
    return np.unique(names.to_numpy(dtype=str), return_inverse=True)[1]
