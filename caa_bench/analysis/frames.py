"""Tidy keys and [items, cells] matrices: what every table is computed from, in one fixed order.

Everything is sorted by its keys first, so that the order in which rows were written cannot reach a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from caa_bench.behaviors.items import category_of

RUN = ["model", "protocol", "split", "evaluator", "behavior"]
VECTOR = ["vector", "vector_behavior", "vector_model", "vector_layer", "layer"]
CONDITION = ["base", "base_dose", *VECTOR, "multiplier"]
DEFAULTS = {
    "evaluator": "answer_probability", "protocol": "balanced", "split": "test", "model": "", "fit": "",
    "vector_model": "",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Group:
    """The conditions of one model, split, evaluator and behavior, with the items they share.

    Args:
        keys: the values of `RUN`.
        cells: one line a condition, sorted; its position is the column of every matrix. Where a condition has several
            fits (LoRA seeds, resamples of the pairs) the first one's cell stands for it, without `fit`. [C]
        members: the cells of each condition by the number of their fit, "" where there is one for all. [C]
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

    @property
    def n_fits(self) -> np.ndarray:
        """Fits of each condition. [C]"""
        return np.array([len(own) for own in self.members], dtype=int)

    def matrix(self, column: str) -> np.ndarray:
        """One score as [N, C] float64, the mean over a condition's fits; NaN where an item has no row or an error."""
        values = self.stack(column)
        if values.shape[2] == 1:
            return values[:, :, 0]
        used = np.arange(values.shape[2]) < self.n_fits[:, None]
        return np.where(used, values, 0.0).sum(axis=2) / self.n_fits

    def stack(self, column: str, *, of: np.ndarray | None = None) -> np.ndarray:
        """The same fit by fit: [N, C, F], the fits of each condition in its first places.

        Args:
            of: for each condition the column of another one, -1 for none: its values, matched by the fits' numbers. A
                condition with one fit for all stands in each place. [C]
        """
        columns = np.arange(len(self.members)) if of is None else of
        every = list(dict.fromkeys(cell for own in self.members for cell in own.values()))
        flat = np.full((len(self.items), len(every) + 1), np.nan)  # the last is nobody's
        rows = self.items.get_indexer(self.scores["item"])
        flat[rows, pd.Index(every).get_indexer(self.scores["cell"])] = self.scores[column].to_numpy(float)
        place = {cell: number for number, cell in enumerate(every)}
        index = np.full((len(self.members), int(self.n_fits.max(initial=1))), len(every))
        for condition, (own, other) in enumerate(zip(self.members, columns, strict=True)):
            taken = {} if other < 0 else self.members[other]
            for fit, number in enumerate(own):
                index[condition, fit] = place.get(taken.get(number, taken.get("", "")), len(every))
        return flat[:, index]


def mean_over_fits(scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Item scores with several fits of a condition as one line, under the first one's cell; as they are where none has.

    Numbers are means, NaN where one of the fits has none; everything else is the first fit's.
    """
    if (tidy_cells(cells)["fit"] == "").all():
        return scores
    numbers = list(scores.select_dtypes(["number", "bool"]).columns)
    parts = []
    for group in groups(scores, cells):
        first = group.scores[group.scores["cell"].isin(group.cells["cell"])]
        place = group.items.get_indexer(first["item"]), pd.Index(group.cells["cell"]).get_indexer(first["cell"])
        parts.append(first.assign(**{name: group.matrix(name)[place] for name in numbers}))
    return pd.concat(parts, ignore_index=True)


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


def groups(scores: pd.DataFrame, cells: pd.DataFrame, *, each_fit: bool = False) -> Iterator[Group]:
    """One `Group` per model, protocol, split, evaluator and behavior, sorted.

    Args:
        each_fit: keep the fits of a condition apart, each a column of its own with its `fit`.

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
        own, members = (part, tuple({"": cell} for cell in part["cell"])) if each_fit else _conditions(part)
        yield Group(
            keys=dict(zip(RUN, keys, strict=True)),
            cells=own,
            members=members,
            scores=here,
            items=cluster.index,
            clusters=_codes(cluster.astype(str)),
            categories=_codes(cluster.index.astype(str).map(category_of)),
        )


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


def _codes(names: pd.Series | pd.Index) -> np.ndarray:
    return np.unique(names.to_numpy(dtype=str), return_inverse=True)[1]
