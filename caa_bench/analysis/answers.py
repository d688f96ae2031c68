"""Answers in words and their judgements -> one line a cell and item, and one line a cell: part of cells.csv.

Scores are 0-1. An answer without a judgement has no score: it is missing, and counts in `missing_share`, never as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import column_mean, count_errors
from caa_bench.analysis.fits import effect_intervals, sampling
from caa_bench.analysis.frames import CONDITION, RUN, Group, groups
from caa_bench.analysis.resample import DRAWS
from caa_bench.analysis.shifts import references
from caa_bench.analysis.text_quality import distinct, loop_share
from caa_bench.storage.row_kinds import ANSWER_FIELDS

QUALITY = ["tokens", "empty_share", "truncated_share", "distinct_1", "distinct_2", "loop_share", "perplexity"]
ITEM_COLUMNS = ["cell", "item", "cluster", "question", "text", "error", "score", "second_score", *QUALITY]
COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "judge", "n", "n_clusters", "n_items", "errors", "score", "score_low",
    "score_high", "score_shift", "score_shift_low", "score_shift_high", "score_total", "score_total_low",
    "score_total_high", "missing_share", "second_score", "judge_accuracy", *QUALITY, "collapsed",
]  # fmt: skip

COLLAPSED_DISTINCT = 0.6
"""Of the base's own distinct-2: under it, text repeats itself."""
COLLAPSED_SHARE = 0.25
"""More than the base's own share of looping words, or of empty or truncated answers."""


def answer_scores(rows: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[float | None]]) -> pd.DataFrame:
    """One line per (cell, item).

    Args:
        rows: dicts of rows.ANSWER_FIELDS. [R]
        scores: of each judge, the leading one first. [J][R], None is missing

    Returns:
        `ITEM_COLUMNS`. Quality is NaN for a row in error; `empty_share` and `truncated_share` are 0 or 1;
        `perplexity` is that of the answer under the plain model, in which a second judge's opinion has no part.
    """
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(ANSWER_FIELDS))
    made = [_quality(row) for row in rows]
    for name in QUALITY:
        frame[name] = np.array([one[name] for one in made], dtype=float)
    unscored = [[None] * len(rows)] * 2
    for name, column in zip(("score", "second_score"), [*scores, *unscored], strict=False):
        frame[name] = np.array(column, dtype=float)
    frame["error"] = frame["error"].notna()
    return frame[ITEM_COLUMNS]


def answer_table(
    item_scores: pd.DataFrame,
    cells: pd.DataFrame,
    *,
    judge: str,
    accuracy: float = np.nan,
    seed: int = 0,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Mean score of every cell with its interval over clusters of questions, and the quality of its text.

    Args:
        item_scores: from `answer_scores`.
        cells: one line a cell, indexed by `cell`.
        judge / accuracy: the leading judge, and its held-out accuracy where that is known.

    Returns:
        `COLUMNS`, sorted by condition. `n` counts scored answers; `missing_share` is the share of the answers, empty
        ones included, without a score. `score_shift` is against the cell's own base unsteered, `score_total` against
        the unchanged model, both over the same questions and NOT signed by the multiplier. `collapsed` compares with
        the base alone.
    """
    parts = [_group_table(group, seed=seed, draws=draws) for group in groups(item_scores, cells)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return table.assign(judge=judge, judge_accuracy=accuracy)[COLUMNS]


def _group_table(group: Group, *, seed: int, draws: int) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    score, how = group.stack("score"), sampling(group, seed=seed, draws=draws)
    level = effect_intervals(score, how, within=(0, 1))
    asked, judged = (np.isfinite(group.stack(name)).sum(axis=(0, 2)) for name in ("error", "score"))
    found = {"score": level}
    for name, columns in references(group).items():
        found[f"score_{name}"] = effect_intervals(score - group.stack("score", of=columns), how)
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    for name, one in found.items():
        table[name], table[f"{name}_low"], table[f"{name}_high"] = one.point, one.low, one.high
    table["missing_share"] = np.divide(asked - judged, asked, out=np.full(len(asked), np.nan), where=asked > 0)
    table["second_score"] = column_mean(group.matrix("second_score"))
    for name in QUALITY:
        values = group.matrix(name)
        # The geometric mean of perplexities, which have no bound: one answer would else be all that is seen.
        table[name] = np.exp(column_mean(np.log(values))) if name == "perplexity" else column_mean(values)
    return table.assign(collapsed=collapsed(table))


def collapsed(table: pd.DataFrame) -> np.ndarray:
    """Whether each cell's text is much worse than that of its base alone; False where that was not run. [C] bool"""
    still = table[table["multiplier"] == 0].drop_duplicates(["base", "base_dose"])
    base = table[["base", "base_dose"]].merge(still, on=["base", "base_dose"], how="left")
    return worse_text(table, base)


def worse_text(table: pd.DataFrame, reference: pd.DataFrame) -> np.ndarray:
    """Whether each line's text is much worse than that of the same line, or the only one, of `reference`. [C] bool"""
    found = table["distinct_2"].to_numpy() < COLLAPSED_DISTINCT * reference["distinct_2"].to_numpy()
    for name in ("loop_share", "empty_share", "truncated_share"):
        found |= table[name].to_numpy() > reference[name].to_numpy() + COLLAPSED_SHARE
    return found


def _quality(row: Mapping[str, Any]) -> dict[str, float]:
    text, tokens, plain = row["text"], row["tokens"], row["plain_log_prob"]
    if text is None:
        return dict.fromkeys(QUALITY, np.nan)
    return {
        "tokens": tokens,
        "empty_share": float(not text),
        "truncated_share": float(row["ended"] == "length"),
        "distinct_1": distinct(text, 1),
        "distinct_2": distinct(text, 2),
        "loop_share": loop_share(text),
        "perplexity": np.exp(-plain / tokens) if tokens and plain is not None else np.nan,
    }
