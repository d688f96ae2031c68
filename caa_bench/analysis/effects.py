"""Per-item effects: which cells make one stacking line, and A, T, D and the base alone on each item. NUMBERS.md 5.

Differences are taken item by item and then averaged; the difference of table means is another quantity on the logit
of p. Shapes: N items, C cells, L lines, F fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from caa_bench.analysis.fits import Sampling
from caa_bench.analysis.frames import CONDITION, VECTOR, Group

LINE = ["base", "base_dose", *VECTOR, "multiplier"]
EFFECTS = {"alone": "alone", "base_alone": "base_alone", "on_top": "on_top", "interaction": "interaction"}
UNCHANGED = ("none", 1.0)
STILL = ("", "", "", np.nan, np.nan, 0.0)  # the vector columns and multiplier of an unsteered cell


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The stacking lines of one group.

    Args:
        keys: columns `LINE`, one line each: every steered condition on a base other than "none". [L]
        sign: sign of the multiplier. [L]
        none, vector, base, both: columns of the group's matrices for (none, 0), (none, m), (X, 0) and (X, m), one a
            fit; -1 where that cell was not run. [L, F]
        n_fits: fits of each line; the rest of its F columns is -1. [L]
    """

    keys: pd.DataFrame
    sign: np.ndarray
    none: np.ndarray
    vector: np.ndarray
    base: np.ndarray
    both: np.ndarray
    n_fits: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Per-item effects of each line and fit. NaN where one of the cells has no score for the item. [N, L, F]

    Args:
        alone: a = s (y[none, m] - y[none, 0]).
        on_top: t = s (y[X, m] - y[X, 0]).
        interaction: d = t - a.
        base_alone: y[X, 0] - y[none, 0], not signed: a negative variant pushes down.
    """

    alone: np.ndarray
    on_top: np.ndarray
    interaction: np.ndarray
    base_alone: np.ndarray


def find_lines(group: Group) -> Lines:
    """Every (base, dose, vector, layer, multiplier) on a base other than "none", with the cells it is made of.

    Fits are joint: the cells of fit f belong together; a cell with an empty `fit` serves all of them (a LoRA of three
    seeds on which one vector is stacked: (none, m) is shared).
    """
    cells, place = group.cells, cell_places(group.cells)
    steered = cells[(cells["base"] != "none") & (cells["multiplier"] != 0)]
    keys, columns = [], []
    for _, part in steered.groupby(LINE, sort=False, dropna=False):
        line = part.iloc[0]
        dose, steer = (line["base"], line["base_dose"]), (*(line[c] for c in VECTOR), line["multiplier"])
        wanted = [(*UNCHANGED, *STILL), (*UNCHANGED, *steer), (*dose, *STILL), (*dose, *steer)]
        keys.append(line[LINE])
        columns.append([[find_cell(place, want, fit) for want in wanted] for fit in part["fit"]])
    n_fits = np.array([len(fits) for fits in columns], dtype=int)
    index = np.full((len(columns), max(n_fits, default=1), 4), -1)
    for line, fits in enumerate(columns):
        index[line, : len(fits)] = fits
    frame = pd.DataFrame(keys, columns=LINE).reset_index(drop=True)
    none, vector, base, both = np.moveaxis(index, 2, 0)
    sign = np.sign(frame["multiplier"].to_numpy(float))
    return Lines(keys=frame, sign=sign, none=none, vector=vector, base=base, both=both, n_fits=n_fits)


def item_effects(values: np.ndarray, lines: Lines) -> Effects:
    """The effects of every line from one score's matrix [N, C] (log-odds or p)."""
    none, vector = pick(values, lines.none), pick(values, lines.vector)
    base, both = pick(values, lines.base), pick(values, lines.both)
    sign = lines.sign[:, None]
    alone, on_top = sign * (vector - none), sign * (both - base)
    same = np.where(np.isnan(on_top - alone), np.nan, 0.0)  # A, T and D are means over the SAME items
    lone = np.isnan(alone).all(axis=0)  # without (none, m) there is no A; T still stands
    on_top = np.where(lone, on_top, on_top + same)
    return Effects(alone=alone + same, on_top=on_top, interaction=on_top - alone, base_alone=base - none)


def pick(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Columns [L, F] of a matrix [N, C] -> [N, L, F], NaN for the column -1."""
    return np.where(columns < 0, np.nan, values[:, columns])


def cell_places(cells: pd.DataFrame) -> dict[tuple, int]:
    """Where each condition and fit stands among the group's cells."""
    return {_key(row): column for column, row in enumerate(cells[[*CONDITION, "fit"]].itertuples(index=False))}


def find_cell(place: dict[tuple, int], want: tuple, fit: str) -> int:
    """The condition's cell of this fit, else the one that serves all fits, else -1."""
    return place.get(_key((*want, fit)), place.get(_key((*want, "")), -1))


def _key(values: tuple) -> tuple:
    """A dict key in which NaN equals NaN."""
    return tuple(None if isinstance(value, float) and np.isnan(value) else value for value in values)


def line_sampling(group: Group, lines: Lines, *, seed: int, draws: int) -> dict[str, Sampling]:
    """Of each effect: all but the base's own have the vector, whose fits are resamples, in them."""
    plain = Sampling(clusters=group.clusters, n_fits=lines.n_fits, seed=seed, draws=draws)
    steered = replace(plain, resampled=np.ones(len(lines.n_fits), dtype=bool))
    return {name: plain if name == "base_alone" else steered for name in EFFECTS}
