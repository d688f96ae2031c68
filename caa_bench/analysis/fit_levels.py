"""Each fit of a condition by itself, the dots behind its mean: fits.csv. NUMBERS.md 14."""

from __future__ import annotations

import pandas as pd

from caa_bench.analysis.cells import column_mean
from caa_bench.analysis.effects import EFFECTS, LINE
from caa_bench.analysis.frames import CONDITION, RUN, groups
from caa_bench.analysis.stacking import fit_table

COLUMNS = ["cell", *RUN, *CONDITION, "fit", "n", "p_balanced", "log_odds", *EFFECTS]


def fit_levels(item_scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """One line a cell of a run with several fits; none for what is not fitted, or fitted once.

    Returns:
        `COLUMNS`: means over items without intervals, which belong to the mean over the fits; on a stacking line the
        fit's own A, B, T and D (log-odds, signed by the multiplier but for `base_alone`), NaN elsewhere.
    """
    parts = []
    for group in groups(item_scores, cells, each_fit=True):
        scores = {name: group.matrix(name) for name in ("p_balanced", "log_odds")}
        table = group.cells[["cell", *RUN, *CONDITION, "fit"]].assign(
            n=(~pd.isna(scores["log_odds"])).sum(axis=0), **{name: column_mean(x) for name, x in scores.items()}
        )
        parts.append(table[table["fit"] != ""])
    if not any(map(len, parts)):
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True).merge(
        fit_table(item_scores, cells), on=[*RUN, *LINE, "fit"], how="left"
    )[COLUMNS]
