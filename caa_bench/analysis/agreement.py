"""What is known of the judges of a run: one line a judge, judges.csv."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = [
    "judge", "answers", "unjudged", "scored", "missing_share", "mean_score", "held_out_accuracy", "agreement",
    "n_agreement",
]  # fmt: skip
LEVELS = 10


def judge_table(
    facts: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[float | None]], unjudged: Sequence[int]
) -> pd.DataFrame:
    """One line a judge, the leading one first.

    Args:
        facts: `name` and, where it is known, `held_out_accuracy` of each. [J]
        scores: of the same answers by each. [J][R], None is missing
        unjudged: answers that a judge has said nothing about yet, a part of its missing ones. [J]

    Returns:
        `COLUMNS`; `agreement` is the weighted kappa with the leading judge over `n_agreement` answers that both scored.
    """
    found = [np.array(column, dtype=float) for column in scores]
    lines = []
    for place, (fact, own) in enumerate(zip(facts, found, strict=True)):
        scored, answers = int((~np.isnan(own)).sum()), len(own)
        both = ~np.isnan(own) & ~np.isnan(found[0])
        lines.append(
            {
                "judge": fact["name"],
                "answers": answers,
                "unjudged": unjudged[place],
                "scored": scored,
                "missing_share": 1 - scored / answers if answers else np.nan,
                "mean_score": np.nanmean(own) if scored else np.nan,
                "held_out_accuracy": fact.get("held_out_accuracy", np.nan),
                "agreement": weighted_kappa(found[0][both], own[both]) if place else np.nan,
                "n_agreement": int(both.sum()) if place else 0,
            }
        )
    return pd.DataFrame(lines, columns=COLUMNS)


def weighted_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two judges' scores on the 0-10 scale, disagreements weighted by their square (Cohen 1968).

    NaN where there are no scores, or where both judges always say the same one thing.
    """
    from sklearn.metrics import cohen_kappa_score

    if not len(first):
        return np.nan
    a, b = (np.rint(scores * LEVELS).astype(int) for scores in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the docstring
        return float(cohen_kappa_score(a, b, labels=list(range(LEVELS + 1)), weights="quadratic"))
