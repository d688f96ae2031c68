"""The placebo band: what vectors that mean nothing do at the same dose. NUMBERS.md, "A fair comparison"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from caa_bench.analysis.frames import RUN

PLACEBOS = ("random", "shuffled")
PLACE = [*RUN, "base", "base_dose", "layer", "multiplier"]


def placebo_band(shifts: pd.DataFrame, *, placebos: Sequence[str] = PLACEBOS) -> pd.DataFrame:
    """Range over the placebo vectors (and their fits) per base, layer and multiplier.

    Args:
        shifts: from `shifts.shift_table`.

    Returns:
        Columns `PLACE`, `placebos` (how many), `low, high` of the shift in log-odds, `p_low, p_high` of p(matching):
        the band of a dose curve. Empty where no placebo was run.
    """
    rows = shifts[shifts["vector"].isin(placebos) & shifts["shift"].notna()]
    return rows.groupby(PLACE, dropna=False, as_index=False).agg(
        placebos=("shift", "size"),
        low=("shift", "min"),
        high=("shift", "max"),
        p_low=("p_balanced", "min"),
        p_high=("p_balanced", "max"),
    )


def within_placebo(shifts: pd.DataFrame, *, placebos: Sequence[str] = PLACEBOS) -> pd.Series:
    """Whether a cell's shift, in the direction of its multiplier, is no larger than the largest placebo's there.

    Returns:
        One entry a line of `shifts`: True, False, or NA for unsteered and placebo cells and where no placebo was run.
    """
    band = placebo_band(shifts, placebos=placebos)
    joined = shifts[PLACE].merge(band, on=PLACE, how="left")
    sign = np.sign(shifts["multiplier"].to_numpy(float))
    reach = np.where(sign > 0, joined["high"].to_numpy(float), -joined["low"].to_numpy(float))
    inside = pd.Series(sign * shifts["shift"].to_numpy(float) <= np.maximum(reach, 0.0), dtype="boolean")
    known = ~np.isnan(reach) & shifts["shift"].notna().to_numpy() & (sign != 0)
    inside[~known | shifts["vector"].isin(placebos).to_numpy()] = pd.NA
    return inside.set_axis(shifts.index)
