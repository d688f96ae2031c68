"""The paper's released per-item answers -> rows, and its score of them (`protocol: caa`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.items import item_scores


def paper_rows(records: Sequence[Mapping[str, Any]], *, cell: str = "paper") -> pd.DataFrame:
    """The published records as rows of one cell, in the given order.

    Args:
        records: dicts with `answer_matching_behavior` ("(A)" .. "(H)"), `a_prob` and `b_prob` (over the full
            vocabulary). Other letters' probabilities were not published: their logits are NaN.
        cell: the cell's key.
    """
    keys = [record["answer_matching_behavior"].strip("() ") for record in records]
    with np.errstate(divide="ignore"):
        logits = np.log([[record["a_prob"], record["b_prob"]] for record in records])
    items = [f"item/{index:04d}" for index in range(len(records))]
    return pd.DataFrame(
        {
            "cell": cell,
            "item": items,
            "cluster": items,
            "order": 0,
            "matching": ["ABCDEFGH".index(key) for key in keys],
            "letters": ["AB" if key in "AB" else "ABCDEFGH"[: "ABCDEFGH".index(key) + 1] for key in keys],
            "logit_0": logits[:, 0],
            "logit_1": logits[:, 1],
            "log_z": 0.0,
            "error": None,
        }
    )


def paper_score(records: Sequence[Mapping[str, Any]]) -> float:
    """The paper's p(matching): mean of p(matching letter) / (p(A) + p(B)), 0 for an item keyed C or later."""
    return float(item_scores(paper_rows(records), protocol="caa")["p_balanced"].mean())
