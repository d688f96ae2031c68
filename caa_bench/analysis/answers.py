"""Answers in words and their judgements -> a line a cell and item, a line a cell (part of cells.csv), a line a judge.

Scores are 0-1. An answer without a judgement has no score: it is missing, and counts in `missing_share`, never as 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import column_mean, count_errors, moved
from caa_bench.analysis.effects import design_of
from caa_bench.analysis.estimates import STANDARD, Estimate, Interval, Resampling, codes
from caa_bench.analysis.fits import effect_intervals
from caa_bench.analysis.frames import CONDITION, RUN, Group
from caa_bench.analysis.intervals import bootstrap_mean, jackknife
from caa_bench.storage.row_kinds import ANSWER_FIELDS

QUALITY = ["tokens", "empty_share", "truncated_share", "distinct_1", "distinct_2", "loop_share", "perplexity"]
ITEM_COLUMNS = ["cell", "item", "cluster", "question", "text", "error", "score", "second_score", *QUALITY]
COLUMNS = [
    "cell", *RUN, *CONDITION, "n_fits", "judge", "n", "n_clusters", "n_items", "errors",
    *Estimate.columns("score", "score_shift", "score_total"), "missing_share", "second_score", "judge_accuracy",
    *QUALITY, "collapsed",
]  # fmt: skip
JUDGE_COLUMNS = [
    "judge", "answers", "unjudged", "scored", "missing_share", "mean_score", "held_out_accuracy",
    *Estimate.columns("agreement"), "n_agreement",
]  # fmt: skip
LEVELS = 10
"""Judges score from 0 to 10; kept as 0-1."""

COLLAPSED_DISTINCT = 0.6
"""Share of the base's own distinct-2: below it, text repeats itself."""
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
    groups: Sequence[Group], *, judge: str, accuracy: float = np.nan, how: Resampling = STANDARD
) -> pd.DataFrame:
    """Mean score of every cell with its interval over clusters of questions, and the quality of its text.

    Args:
        groups: of `answer_scores`.
        judge / accuracy: the leading judge, and its held-out accuracy where that is known.

    Returns:
        `COLUMNS`, sorted by condition. `n` counts scored answers; `missing_share` is the share of the answers, empty
        ones included, without a score. `score_shift` is against the cell's own base unsteered, `score_total` against
        the unchanged model, both over the same questions and NOT signed by the multiplier. `collapsed` compares with
        the base alone.
    """
    parts = [_of_cells(group, how) for group in groups]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return table.assign(judge=judge, judge_accuracy=accuracy)[COLUMNS]


def _of_cells(group: Group, how: Resampling) -> pd.DataFrame:
    table = group.cells[["cell", *RUN, *CONDITION]].assign(n_fits=group.n_fits, errors=count_errors(group))
    design = design_of(group, how, column="score")
    level = effect_intervals(group.by_fit("score"), design, within=(0, 1))
    level.put(table, "score")
    for name, change in moved(group, "score").items():
        effect_intervals(change, design).put(table, f"score_{name}")
    table["n"], table["n_clusters"], table["n_items"] = level.n, level.n_clusters, len(group.items)
    asked, judged = (np.isfinite(group.by_fit(name)).sum(axis=(0, 2)) for name in ("error", "score"))
    table["missing_share"] = np.divide(asked - judged, asked, out=np.full(len(asked), np.nan), where=asked > 0)
    table["second_score"] = column_mean(group.mean("second_score"))
    for name in QUALITY:
        values = group.mean(name)
        # Perplexities have no bound: by their geometric mean one answer is not all that is seen.
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


def distinct(text: str, n: int) -> float:
    """Share of different n-grams among all of a text's word n-grams (Li et al. 2016); NaN with fewer than n words."""
    words = text.lower().split()
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def loop_share(text: str) -> float:
    """Share of the words in the longest loop: a stretch that says the same one or more words over and over.

    A stretch of period p counts from two whole rounds on, or three where p is 1 ("very very" is no loop). 0 without
    any; NaN without words.
    """
    words = text.lower().split()
    longest = 0
    for period in range(1, len(words) // 2 + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            if run >= max(period, 2):
                longest = max(longest, run + period)
    return longest / len(words) if words else math.nan


def judge_table(
    facts: Sequence[Mapping[str, Any]],
    scores: Sequence[Sequence[float | None]],
    unjudged: Sequence[int],
    *,
    clusters: Sequence[str],
    how: Resampling = STANDARD,
) -> pd.DataFrame:
    """One line a judge, the leading one first.

    Args:
        facts: `name` and, where it is known, `held_out_accuracy` of each. [J]
        scores: of the same answers by each. [J][R], None is missing
        unjudged: answers that a judge has said nothing about yet, a part of its missing ones. [J]
        clusters: of the question of each answer. [R]

    Returns:
        `JUDGE_COLUMNS`; `agreement` is the weighted kappa with the leading judge over the `n_agreement` answers
        that both scored, its interval over clusters of questions.
    """
    asked = np.array(clusters, dtype=object)
    found = [np.array(column, dtype=float) for column in scores]
    lines = []
    for place, (fact, own) in enumerate(zip(facts, found, strict=True)):
        scored, answers = int((~np.isnan(own)).sum()), len(own)
        both = ~np.isnan(own) & ~np.isnan(found[0]) & (place > 0)
        agreed = _agreement(found[0][both], own[both], codes(asked[both]), how)
        lines.append(
            {
                "judge": fact["name"],
                "answers": answers,
                "unjudged": unjudged[place],
                "scored": scored,
                "missing_share": 1 - scored / answers if answers else np.nan,
                "mean_score": np.nanmean(own) if scored else np.nan,
                "held_out_accuracy": fact.get("held_out_accuracy", np.nan),
                "agreement": agreed.point,
                "agreement_low": agreed.low,
                "agreement_high": agreed.high,
                "n_agreement": int(both.sum()),
            }
        )
    return pd.DataFrame(lines, columns=JUDGE_COLUMNS)


def _agreement(first: np.ndarray, second: np.ndarray, asked: np.ndarray, how: Resampling) -> Interval:
    """Kappa with its interval over questions, each left out in turn; NaN ends below as many as any interval needs."""
    kappa, count = weighted_kappa(first, second), len(set(asked.tolist()))
    if np.isnan(kappa) or count < 2:
        return Interval(kappa, np.nan, np.nan)
    without = np.array([[weighted_kappa(first[asked != one], second[asked != one]) for one in range(count)]])
    found = bootstrap_mean(kappa + jackknife(without, asked), asked, how=how)
    return Interval(kappa, float(found.low[0]), min(float(found.high[0]), 1.0))


def weighted_kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two judges' scores on the 0-10 scale, disagreements weighted by their square (Cohen 1968).

    NaN where there are no scores, or where both judges always say the same one thing.
    """
    if not len(first):
        return np.nan
    from sklearn.metrics import cohen_kappa_score

    a, b = (np.rint(scores * LEVELS).astype(int) for scores in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in the docstring
        return float(cohen_kappa_score(a, b, labels=list(range(LEVELS + 1)), weights="quadratic"))
