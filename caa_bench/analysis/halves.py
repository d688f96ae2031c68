"""CAA's effect where the matching option is the longer one, and where it is not: a vector may carry length."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from caa_bench.analysis.resample import DRAWS
from caa_bench.analysis.shifts import shift_table


def effect_by_half(
    item_scores: pd.DataFrame, cells: pd.DataFrame, *, longer: Collection[str], seed: int = 0, draws: int = DRAWS
) -> pd.DataFrame:
    """`shifts.shift_table` of each half of the items, with a column `half`: "longer" or "shorter".

    Args:
        longer: ids of the items whose matching option is the longer one.
    """
    is_longer = item_scores["item"].isin(list(longer))
    halves = {"longer": item_scores[is_longer], "shorter": item_scores[~is_longer]}
    tables = [shift_table(part, cells, seed=seed, draws=draws).assign(half=half) for half, part in halves.items()]
    return pd.concat(tables, ignore_index=True)
