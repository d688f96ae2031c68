"""Item scores and cells -> groups of [N, C, F] arrays: what every table is computed from, in one fixed order.

Everything is sorted by its keys first, so that the order in which rows were written cannot reach a number.
Shapes: N items, C conditions, F fits (LoRA seeds, resamples of the pairs), L lines of a table, K categories.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import codes
from caa_bench.analysis.items import SCORES
from caa_bench.behaviors.items import category_of

RUN = ["model", "protocol", "split", "evaluator", "behavior"]
VECTOR = ["vector", "vector_behavior", "vector_model", "vector_layer", "layer"]
CONDITION = ["base", "base_dose", *VECTOR, "multiplier"]
UNSTEERED = ("", "", "", np.nan, np.nan, 0.0)
"""The columns `VECTOR` and `multiplier` of a cell without a vector."""
UNCHANGED = ("none", 1.0, *UNSTEERED)
"""The condition of the unchanged model."""
DEFAULTS = {
    "evaluator": "answer_probability", "protocol": "default", "split": "test", "model": "", "fit": "",
    "vector_model": "",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Group:
    """The conditions of one model, protocol, split, evaluator and behavior, with the items that they share.

    Args:
        keys: the values of `RUN`.
        cells: one line a condition, sorted; its position is its column in every array. Where a condition has several
            fits, the first one's cell stands for it. [C]
        members: each condition's cells by the number of their fit; "" is a cell that serves all fits. [C]
        scores: the item scores of these cells.
        items: sorted item ids. [N]
        clusters: 0-based cluster code of each item, in the sorted order of the cluster names. [N]
        categories: 0-based category code of each item (`items.category_of`). [N]
    """

    keys: dict[str, str]
    cells: pd.DataFrame
    members: tuple[dict[str, str], ...]
    scores: pd.DataFrame
    items: pd.Index
    clusters: np.ndarray
    categories: np.ndarray

    @cached_property
    def n_fits(self) -> np.ndarray:
        """Fits of each condition. [C]"""
        return np.array([len(own) for own in self.members], dtype=int)

    def by_fit(self, column: str) -> np.ndarray:
        """One score fit by fit: [N, C, F], each condition's fits in its first places.

        NaN where an item has no row or an error, and in the places that a condition has no fit for.
        """
        every = np.arange(len(self.members))
        return self.matched(column, of=every, like=every)

    def mean(self, column: str) -> np.ndarray:
        """One score as the mean over a condition's fits; NaN where one of them has none. [N, C]"""
        values = self.by_fit(column)
        used = np.arange(values.shape[2]) < self.n_fits[:, None]
        return np.where(used, values, 0.0).sum(axis=2) / self.n_fits

    def matched(self, column: str, *, of: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The score of conditions `of`, fit by fit, in the order of the fits of conditions `like`: [N, L, F].

        Fits belong together by their numbers: a vector's third resample is held against the third finetune also where
        a second is missing. A condition with one cell for all fits gives it each time.

        Args:
            of: a condition's column each, -1 for none (NaN). [L]
            like: the condition whose fits are followed. [L]
        """
        rows, columns, place = self._scored
        table = np.full((len(self.items), len(place) + 1), np.nan)  # the last column belongs to no cell
        table[rows, columns] = self.scores[column].to_numpy(float)
        index = np.full((len(of), int(self.n_fits.max(initial=1))), len(place))
        for line, (one, other) in enumerate(zip(of, like, strict=True)):
            own = {} if one < 0 else self.members[one]
            for fit, number in enumerate(self.members[other]):
                index[line, fit] = place.get(own.get(number, own.get("", "")), len(place))
        return table[:, index]

    def find(self, condition: tuple) -> int:
        """The column of a condition, given as the values of `CONDITION`; -1 where it was not run."""
        return self._columns.get(_key(condition), -1)

    def of_items(self, kept: np.ndarray) -> Group:
        """The same of some of the items. kept: [N] bool"""
        items = self.items[kept]
        return replace(
            self,
            scores=self.scores[self.scores["item"].isin(items)],
            items=items,
            clusters=codes_again(self.clusters[kept]),
            categories=codes_again(self.categories[kept]),
        )

    @cached_property
    def _columns(self) -> dict[tuple, int]:
        lines = self.cells[CONDITION].itertuples(index=False, name=None)
        return {_key(line): column for column, line in enumerate(lines)}

    @cached_property
    def _scored(self) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Row and column of each line of `scores`, and the columns of the cells."""
        every = list(dict.fromkeys(cell for own in self.members for cell in own.values()))
        rows = self.items.get_indexer(self.scores["item"])
        columns = pd.Index(every).get_indexer(self.scores["cell"])
        return rows, columns, {cell: number for number, cell in enumerate(every)}


def grouped(scores: pd.DataFrame, cells: pd.DataFrame) -> tuple[Group, ...]:
    """One `Group` per model, protocol, split, evaluator and behavior, sorted.

    Args:
        scores: one line a cell and item: `cell, item, cluster` and scores.
        cells: one line a cell, indexed by `cell`, with the columns of `RUN` and `CONDITION`; an optional column `fit`
            numbers the fits of one condition.

    Raises:
        ValueError: an item is scored twice in one cell, or stands in two clusters.
    """
    if scores.duplicated(["cell", "item"]).any():
        raise ValueError("item scores hold an item twice in one cell")
    return tuple(_groups(scores, tidy_cells(cells)))


def _groups(scores: pd.DataFrame, cells: pd.DataFrame) -> Iterator[Group]:
    for keys, part in cells.groupby(RUN, sort=True, dropna=False):
        here = scores[scores["cell"].isin(part["cell"])]
        cluster = here[["item", "cluster"]].drop_duplicates().sort_values("item").set_index("item")["cluster"]
        if cluster.index.has_duplicates:
            raise ValueError(f"{keys}: an item stands in two clusters: {cluster.index[cluster.index.duplicated()][0]}")
        own, members = _conditions(part.reset_index(drop=True))
        yield Group(
            keys=dict(zip(RUN, keys, strict=True)),
            cells=own,
            members=members,
            scores=here,
            items=cluster.index,
            clusters=codes(cluster),
            categories=codes(category_of(str(item)) for item in cluster.index),
        )


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


def _conditions(cells: pd.DataFrame) -> tuple[pd.DataFrame, tuple[dict[str, str], ...]]:
    """One line a condition, and the cells of its fits by their numbers, in order."""
    if (cells["fit"] == "").all():
        return cells, tuple({"": cell} for cell in cells["cell"])
    numbered = cells.sort_values("fit", key=lambda fits: pd.to_numeric(fits, errors="coerce"), kind="stable")
    found = [
        dict(zip(own["fit"], own["cell"], strict=True))
        for _, own in numbered.groupby(CONDITION, sort=False, dropna=False)
    ]
    by_lead = {next(iter(own.values())): own for own in found}
    lead = cells[cells["cell"].isin(list(by_lead))].reset_index(drop=True)
    return lead.assign(fit=""), tuple(by_lead[cell] for cell in lead["cell"])


def mean_over_fits(groups: tuple[Group, ...]) -> pd.DataFrame:
    """The item scores with several fits of a condition as one line, under the first one's cell.

    Numbers are means, NaN where one of the fits has none; everything else is the first fit's.
    """
    parts = []
    for group in groups:
        first = group.scores[group.scores["cell"].isin(group.cells["cell"])]
        if group.n_fits.max(initial=1) > 1:
            place = group.items.get_indexer(first["item"]), pd.Index(group.cells["cell"]).get_indexer(first["cell"])
            numbers = first.select_dtypes(["number", "bool"]).columns
            first = first.assign(**{name: group.mean(name)[place] for name in numbers})
        parts.append(first)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["cell", "item", *SCORES])


def _key(values: tuple[Any, ...]) -> tuple:
    """A dict key in which NaN equals NaN."""
    return tuple(None if isinstance(value, float) and np.isnan(value) else value for value in values)


def codes_again(values: np.ndarray) -> np.ndarray:
    """0-based codes of what is left of some codes, in their order. [N]"""
    return np.unique(values, return_inverse=True)[1]
