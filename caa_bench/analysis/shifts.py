"""Every cell against its own base unsteered and against the unchanged model: the lines of a dose curve.

Shapes: N items, C cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import column_mean
from caa_bench.analysis.effects import STILL, UNCHANGED, cell_places, find_cell
from caa_bench.analysis.fits import effect_intervals, sampling
from caa_bench.analysis.frames import CONDITION, RUN, Group, groups
from caa_bench.analysis.macro import macro, macro_fits
from caa_bench.analysis.resample import DRAWS

COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "n", "n_clusters", "log_odds", "p_balanced", "option_mass",
    *(f"{name}{suffix}{end}" for name in ("shift", "total") for suffix in ("", "_p") for end in ("", "_low", "_high")),
]  # fmt: skip


def shift_table(item_scores: pd.DataFrame, cells: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """How far each cell moves, item by item.

    Returns:
        One line a condition, the mean over its fits. `shift` = y[cell] - y[its base, 0], what the vector does there (0
        for an unsteered cell); `total` = y[cell] - y[none, 0], what the whole stack does. Log-odds, and probability
        with `_p`; unweighted means over the items' categories; NOT signed by the multiplier; NaN where the reference
        was not run.
    """
    parts = [_group_table(group, seed=seed, draws=draws) for group in groups(item_scores, cells)]
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def references(group: Group) -> dict[str, np.ndarray]:
    """The column each condition is compared with: `shift` its own base unsteered, `total` the unchanged model. [C]"""
    place = cell_places(group.cells)
    found: dict[str, list[int]] = {"shift": [], "total": []}
    for _, cell in group.cells.iterrows():
        found["shift"].append(find_cell(place, (cell["base"], cell["base_dose"], *STILL), cell["fit"]))
        found["total"].append(find_cell(place, (*UNCHANGED, *STILL), cell["fit"]))
    return {name: np.array(columns, dtype=int) for name, columns in found.items()}


def _group_table(group: Group, *, seed: int, draws: int) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits)
    table["option_mass"] = column_mean(group.matrix("option_mass"))
    how = sampling(group, seed=seed, draws=draws)
    for score, suffix in (("p_balanced", "_p"), ("log_odds", "")):
        values = group.stack(score)
        table[score] = column_mean(macro(group.matrix(score), group.categories))
        for name, columns in references(group).items():
            moved = values - group.stack(score, of=columns)
            found = effect_intervals(macro_fits(moved, group.categories), how)
            table[f"{name}{suffix}"] = found.point
            table[f"{name}{suffix}_low"], table[f"{name}{suffix}_high"] = found.low, found.high
            table["n"], table["n_clusters"] = found.n, found.n_clusters
    return table
