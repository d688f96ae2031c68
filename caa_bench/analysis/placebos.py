"""Is an effect larger than what vectors that mean nothing do? Every draw by itself, and a vector's rank among them.

docs/numbers.md, "A fair comparison". A vector that means nothing is one more draw, the largest in 1 of n + 1 runs.
Shapes: N items, C conditions, F draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import column_mean, macro, moved
from caa_bench.analysis.frames import RUN, VECTOR, Group
from caa_bench.analysis.intervals import TIE
from caa_bench.analysis.power import LEVEL

PLACE = [*RUN, "base", "base_dose", "layer", "multiplier"]
"""Where a vector and its placebos meet."""
DRAW_COLUMNS = [*PLACE, "original", "vector", "draw", "cell", "n", "shift", "shift_p", "p_balanced"]
RANK_COLUMNS = [
    "cell",
    *PLACE,
    "vector",
    "placebo",
    "draws",
    "larger",
    "p_value",
    "shift",
    "largest",
    "beyond",
    "within",
]
LEAST_DRAWS = round(1 / LEVEL) - 1
"""With fewer, being larger than all of them happens by chance in more than 5% of runs: nothing is claimed then."""


def placebo_draws(groups: Sequence[Group], *, placebos: Mapping[str, str]) -> pd.DataFrame:
    """What each draw does, against its own base.

    Args:
        groups: of `items.item_scores`; a placebo's draws are the fits of its conditions.
        placebos: placebo -> the vector that it stands beside.

    Returns:
        `DRAW_COLUMNS`, one line a draw and place: `shift` (log-odds) and `shift_p` (0-1), not signed by the
        multiplier, over `n` items; unweighted means over the items' categories, as in `cells.shift_table`.
    """
    parts = [part for group in groups if len(part := _draws_of(group, placebos))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=DRAW_COLUMNS)


def placebo_band(draws: pd.DataFrame) -> pd.DataFrame:
    """The range over a vector's placebos at each place: the band of a dose curve.

    Returns:
        Columns `PLACE`, `original`, `placebos` (how many draws, of all kinds), `low, high` of the shift in log-odds,
        `p_low, p_high` of p(matching). Empty where no placebo was run.
    """
    return draws.groupby([*PLACE, "original"], dropna=False, as_index=False).agg(
        placebos=("shift", "size"),
        low=("shift", "min"),
        high=("shift", "max"),
        p_low=("p_balanced", "min"),
        p_high=("p_balanced", "max"),
    )


def placebo_ranks(shifts: pd.DataFrame, draws: pd.DataFrame) -> pd.DataFrame:
    """The rank of each steered cell among its own placebos at the same place, a line a kind of placebo.

    p = (1 + draws at least as far from 0) / (1 + draws): the permutation p-value (Phipson & Smyth 2010). It is exact
    where the vector and its placebos differ in nothing but what they mean.

    Args:
        shifts: from `cells.shift_table`.
        draws: from `placebo_draws`.

    Returns:
        `RANK_COLUMNS`: `draws` of that kind, how many are `larger` (or as large), `p_value`, the cell's `shift` and
        the `largest` size among the draws; `beyond`: p is at most .05 (never below 19 draws); `within`: p is above .05
        and a draw is as large. Neither holds where there are too few draws to say.
    """
    if draws.empty:
        return pd.DataFrame(columns=RANK_COLUMNS)
    own = shifts[shifts["shift"].notna() & (shifts["multiplier"] != 0)]
    if own.empty:
        return pd.DataFrame(columns=RANK_COLUMNS)
    own = own[["cell", *PLACE, "vector", "shift"]].rename(columns={"shift": "effect"})
    both = own.merge(
        draws.rename(columns={"vector": "placebo"}).rename(columns={"original": "vector"}).drop(columns=["cell", "n"]),
        on=[*PLACE, "vector"],
    )
    size = both["shift"].abs()
    both = both.assign(size=size, hit=size >= both["effect"].abs() * (1 - TIE))
    ranks = both.groupby(["cell", *PLACE, "vector", "placebo"], dropna=False, as_index=False, sort=False).agg(
        draws=("hit", "size"), larger=("hit", "sum"), shift=("effect", "first"), largest=("size", "max")
    )
    ranks["p_value"] = (1 + ranks["larger"]) / (1 + ranks["draws"])
    ranks["beyond"] = ranks["p_value"] <= LEVEL + 1e-12
    ranks["within"] = ~ranks["beyond"] & (ranks["larger"] > 0)
    return ranks[RANK_COLUMNS]


def strictest(ranks: pd.DataFrame) -> pd.DataFrame:
    """Of several kinds of placebos of a cell the one that it stands out from least: the largest p, then the size."""
    ordered = ranks.sort_values(["p_value", "largest"], ascending=False, kind="stable")
    return ordered.drop_duplicates("cell").sort_index()


def within_placebo(shifts: pd.DataFrame, draws: pd.DataFrame) -> pd.Series:
    """Whether a cell's effect is one that its placebos have too: `within` of the strictest kind.

    Returns:
        One entry a line of `shifts`: True, False, or NA for unsteered and placebo cells, where none of the vector's
        placebos was run, and where there are too few draws to say.
    """
    ranks = strictest(placebo_ranks(shifts, draws)).set_index("cell").astype({"within": bool, "beyond": bool})
    known = ranks[ranks["within"] | ranks["beyond"]]
    return shifts["cell"].map(known["within"]).astype("boolean")


def _draws_of(group: Group, placebos: Mapping[str, str]) -> pd.DataFrame:
    wanted = np.flatnonzero(group.cells["vector"].isin(list(placebos)))
    if not len(wanted):
        return pd.DataFrame(columns=DRAW_COLUMNS)
    found = {}
    for score, name in (("log_odds", "shift"), ("p_balanced", "shift_p")):
        shift = macro(moved(group, score)["shift"][:, wanted], group.categories)  # [N, C, F]
        found[name] = column_mean(shift)
    found["p_balanced"] = column_mean(macro(group.by_fit("p_balanced")[:, wanted], group.categories))
    n = (~np.isnan(shift)).sum(axis=0)
    places = [(at, fit) for at, one in enumerate(wanted) for fit in range(group.n_fits[one])]
    condition, fit = np.array(places).T
    table = group.cells.iloc[wanted[condition]][[*RUN, "base", "base_dose", *VECTOR, "multiplier"]]
    members = [list(group.members[one].items()) for one in wanted]
    table = table.assign(
        original=table["vector"].map(dict(placebos)),
        draw=[members[at][place][0] or "1" for at, place in places],
        cell=[members[at][place][1] for at, place in places],
        n=n[condition, fit],
        **{name: values[condition, fit] for name, values in found.items()},
    )
    return table[table["shift"].notna()][DRAW_COLUMNS].reset_index(drop=True)
