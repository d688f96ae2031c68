"""Rows (cell x item x option order) -> one line of scores per (cell, item). docs/numbers.md 1-4.

Knows nothing of interventions, intervals or verdicts. Shapes: R rows, K option letters (NaN padded).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp

SCORES = [
    "cluster", "key", "orders", "log_odds", "p_balanced", "log_odds_given", "p_given", "p_swapped", "letter_bias",
    "letter_locked", "option_mass", "option_mass_min", "mass_p", "accuracy", "error",
]  # fmt: skip
NO_SCORES = ("cluster", "key", "orders", "error")
"""What an item in error keeps."""


def item_scores(rows: pd.DataFrame, *, protocol: str = "default") -> pd.DataFrame:
    """Scores each item of each cell, averaged over the option orders it was asked in.

    Args:
        rows: columns `cell, item, cluster, order, matching, letters, logit_0 .. logit_{K-1}, log_z` and, where there
            is one, `error` (text or None). Letter logits are fp32, in the order shown.
        protocol: `"caa"` is the paper's rule, p(matching letter) / (p(A) + p(B)) with the letters A and B alone: an
            item keyed otherwise scores p = 0, stays in the denominator and has no log-odds. Anything else is the
            item's own options: logit(matching) - logsumexp(others).

    Returns:
        One line per (cell, item), sorted, columns `cell, item` and `SCORES`. `key` is the letter that is right in the
        given order. An item with an error or a NaN or
        infinite logit in ANY of its orders is an item error: `error` is True and its scores are NaN, because a mean
        over the orders that are left would be another quantity. `log_odds` is never clipped; `accuracy` is the share
        of orders in which the matching option has the largest logit, half a share where two have it.
    """
    rows = rows.sort_values(["cell", "item", "order"], kind="stable").reset_index(drop=True)
    scored = _row_scores(rows, protocol=protocol)
    table = scored.groupby(["cell", "item"], sort=True).agg(
        cluster=("cluster", "first"),
        orders=("order", "size"),
        log_odds=("y", "mean"),
        p_balanced=("p", "mean"),
        option_mass=("mass", "mean"),
        option_mass_min=("mass", "min"),
        mass_p=("mass_p", "mean"),
        accuracy=("right", "mean"),
        error=("error", "any"),
    )
    given = scored[scored["order"] == 0].set_index(["cell", "item"])
    table["key"], table["log_odds_given"], table["p_given"] = given["key"], given["y"], given["p"]
    table["p_swapped"] = scored[scored["order"] != 0].groupby(["cell", "item"])["p"].mean()
    table = table.join(_letter_scores(scored))
    table.loc[table["error"], [name for name in SCORES if name not in NO_SCORES]] = np.nan
    return table[SCORES].reset_index()


def letter_table(scores: pd.DataFrame) -> pd.DataFrame:
    """How p(matching) in the given order depends on the letter that is right: one line per (cell, key A or B).

    Args:
        scores: from `item_scores`.

    Returns:
        Columns `cell, key, n, p_matching, se`: items without an error, their mean and its standard error. A model that
        always answers "A" reads near 1 for key A and near 0 for key B, whatever it knows.
    """
    seen = scores[~scores["error"].astype(bool) & scores["key"].isin(["A", "B"])]
    return seen.groupby(["cell", "key"], as_index=False).agg(
        n=("p_given", "size"), p_matching=("p_given", "mean"), se=("p_given", "sem")
    )


def _row_scores(rows: pd.DataFrame, *, protocol: str) -> pd.DataFrame:
    logits = rows.filter(regex=r"^logit_\d+$").to_numpy(np.float64)  # [R, K]
    matching = rows["matching"].to_numpy(int)
    options = np.full(len(rows), 2) if protocol == "caa" else rows["letters"].map(len).to_numpy(int)
    shown = np.arange(logits.shape[1]) < options[:, None]  # [R, K]
    log_z = rows["log_z"].to_numpy(np.float64)
    error = (shown & ~np.isfinite(logits)).any(axis=1) | ~np.isfinite(log_z)
    if "error" in rows:
        error |= rows["error"].notna().to_numpy() & (rows["error"].fillna("") != "").to_numpy()
    keyed = matching < options  # False: the paper's rule for an item keyed C or later
    right = np.arange(logits.shape[1]) == np.where(keyed, matching, 0)[:, None]
    safe = np.where(shown & ~error[:, None], logits, -np.inf)
    safe[error] = 0.0
    # y = logit(matching) - logsumexp(others), so p = expit(y) is the share of the letters' probability on matching.
    y = safe[right] - logsumexp(np.where(right, -np.inf, safe), axis=1)
    p = np.where(keyed, expit(y), 0.0)
    mass = np.minimum(np.exp(logsumexp(safe, axis=1) - np.where(error, np.inf, log_z)), 1.0)
    frame = rows[["cell", "item", "cluster", "order", "matching"]].copy()
    frame["key"] = [letters[place] for letters, place in zip(rows["letters"], matching, strict=True)]
    frame["y"] = np.where(error | ~keyed, np.nan, y)
    frame["p"] = np.where(error, np.nan, p)
    frame["right"] = np.where(error, np.nan, _leads(safe, right, keyed=keyed))
    frame["mass"] = np.where(error, np.nan, mass)
    frame["mass_p"] = frame["mass"] * frame["p"]
    frame["two"], frame["error"] = (options == 2) & keyed, error
    return frame


def _leads(logits: np.ndarray, right: np.ndarray, *, keyed: np.ndarray) -> np.ndarray:
    """1 where the right option's logit is the largest, 1/2 where it shares that place, 0 else. [R, K] -> [R]"""
    lead = logits[right] - np.where(right, -np.inf, logits).max(axis=1)
    return np.where(keyed, np.heaviside(lead, 0.5), 0.0)


def _letter_scores(scored: pd.DataFrame) -> pd.DataFrame:
    """Letter bias (log-odds, + prefers A) and whether the sign of y turns with the order; two options, both orders."""
    two = scored[scored["two"] & scored["order"].isin([0, 1])]
    sides = two.pivot_table(index=["cell", "item"], columns="matching", values="y", aggfunc="mean", dropna=False)
    as_a, as_b = sides.reindex(columns=[0, 1]).to_numpy(float).T
    bias = (as_a - as_b) / 2
    locked = np.where(np.isnan(bias), np.nan, (as_a * as_b < 0).astype(float))
    return pd.DataFrame({"letter_bias": bias, "letter_locked": locked}, index=sides.index)
