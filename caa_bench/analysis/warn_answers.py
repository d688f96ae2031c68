"""What a reader of judged answers must be told: scores that rest on broken text, on few judgements, on a weak judge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from caa_bench.analysis.warn_facts import Found, Severity

MISSING_CAUTION, MISSING_SEVERE = 0.1, 0.25
WEAK_JUDGE = 0.75
POOR_AGREEMENT = 0.4
MOVED = 0.1
"""Of the score's 0-1, where there are too few questions for an interval."""


def answer_warnings(cells: pd.DataFrame, judges: pd.DataFrame) -> Iterator[Found]:
    """Every warning about answers in words.

    Args:
        cells: from `answers.answer_table`.
        judges: from `agreement.judge_table`.
    """
    yield from _collapse(cells)
    gappy = cells[cells["missing_share"] > MISSING_CAUTION]
    if len(gappy):
        worst = gappy.loc[gappy["missing_share"].idxmax()]
        severity: Severity = "severe" if worst["missing_share"] > MISSING_SEVERE else "caution"
        text = f"Up to {worst['missing_share']:.0%} of a cell's answers have no score (at {_where(worst)}): "
        yield Found(severity=severity, count=len(gappy), text=text + "the mean is of the others alone.")
    for judge in judges.to_dict("records"):
        if judge["held_out_accuracy"] < WEAK_JUDGE:
            right = f"{judge['held_out_accuracy']:.0%}"
            text = f"The judge {judge['judge']} is right on {right} of held-out answer texts only."
            yield Found(severity="caution", text=text)
        if not judge["scored"] and judge["answers"] > judge["unjudged"]:
            text = f"The judge {judge['judge']} gave none of {judge['answers']:,} answers a score: "
            yield Found(severity="caution", text=f"{text}use the judge model or api (open_ended.judges).")
        if judge["agreement"] < POOR_AGREEMENT:
            text = f"The judges {judges.loc[0, 'judge']} and {judge['judge']} hardly agree (weighted kappa "
            yield Found(severity="caution", text=f"{text}{judge['agreement']:.2f}).")


def _collapse(cells: pd.DataFrame) -> Iterator[Found]:
    """The score follows the dose where the text no longer is one: judges take repetition for conviction."""
    sign = np.sign(cells["multiplier"])
    low, high = cells["score_shift_low"] * sign, cells["score_shift_high"] * sign
    sure = np.fmin(low, high) > 0
    moved = sure | (low.isna() & (cells["score_shift"] * sign > MOVED))
    bad = cells[moved & cells["collapsed"].astype(bool)]
    if len(bad):
        worst = bad.loc[bad["distinct_2"].fillna(0.0).idxmin()]
        yield Found(
            severity="severe",
            count=len(bad),
            text=f"The judged score moves with the dose while the text collapses at {_where(worst)} (distinct-2 "
            f"{worst['distinct_2']:.2f}, looping {worst['loop_share']:.0%}, cut off {worst['truncated_share']:.0%}, "
            f"empty {worst['empty_share']:.0%}): read the answers before the score.",
        )


def _where(line: pd.Series) -> str:
    dose = f" at {line['multiplier']:+g}" if line["multiplier"] else ""
    return f"{line['base']}{' + ' + line['vector'] if line['vector'] else ''}{dose}"
