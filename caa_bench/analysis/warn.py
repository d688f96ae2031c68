"""What a warning is made of, and the warnings about what is measured beside the letters: answers in words, perplexity.

The rules about the letters are in `warn_rules` (the data) and `warn_vectors` (each vector method).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from caa_bench.analysis.frames import CONDITION

Severity = Literal["severe", "caution", "note"]
RANK = {"severe": 0, "caution": 1, "note": 2}

MISSING_CAUTION, MISSING_SEVERE = 0.1, 0.25
"""Share of a cell's answers without a score."""
WEAK_JUDGE = 0.75
"""Share of held-out answer texts that a judge must be right on."""
POOR_AGREEMENT = 0.4
"""Weighted kappa of two judges."""
MOVED = 0.1
"""Of the score's 0-1, where there are too few questions for an interval."""
RISE = 1.5
"""Warn when perplexity grows by this factor and its interval excludes 1."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule found, before it is named.

    Args:
        severity: "severe" (a number may mean something else), "caution" (it may mislead) or "note".
        text: one sentence.
        count: cells or lines concerned.
    """

    severity: Severity
    text: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the tables do not know, for one behavior. None is "not known", and gives no warning.

    Args:
        leading: the leading vector as a reader is told it.
        train_longer_share: share of train items whose matching option is the longer one. (0-1)
        halves: the leading dose's line on the items whose matching option is the longer one, and on the others
            (`cells.effect_by_half`).
        choice_at_edge: what of the chosen dose lies at the edge of its grid ("layer", "multiplier").
        test_opened: how often the test split was evaluated by this run.
        test_opening: which opening of the test split with this model this run was, of all runs beside it; from 1.
        open_ended: columns `vector, base, base_dose, layer, multiplier, shift_low, shift_high`: the judged shift of
            each vector there, and of each base alone (vector "", multiplier 0) from the unchanged model.
        vector: the leading vector's line of `diagnostics.vector_diagnostics` at the leading layer.
        letters: from `items.letter_table`.
    """

    leading: str = ""
    train_longer_share: float | None = None
    halves: pd.DataFrame | None = None
    choice_at_edge: tuple[str, ...] = ()
    test_opened: int | None = None
    test_opening: int = 1
    open_ended: pd.DataFrame | None = None
    vector: Mapping[str, Any] | None = None
    letters: pd.DataFrame | None = None


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of one run."""

    cells: pd.DataFrame
    stacking: pd.DataFrame
    shifts: pd.DataFrame
    reliability: pd.DataFrame
    placebos: pd.DataFrame

    def on_test(self, behavior: str) -> Tables:
        """The lines of one behavior, of its test split where there is one (a selection split warns of nothing)."""
        here = {name: table[table["behavior"] == behavior] for name, table in vars(self).items()}
        if (here["cells"]["split"] == "test").any():
            here = {name: table[table["split"] == "test"] for name, table in here.items()}
        return Tables(**here)


def where(line: pd.Series) -> str:
    """The cell of a rule's worst case: `lora_sft_positive x0.5 at +1 (layer 3)`."""
    dose = f" at {line['multiplier']:+g}" if line["multiplier"] else ""
    layer = "" if np.isnan(line["layer"]) else f" (layer {line['layer']:.0f})"
    own = "" if line["base_dose"] == 1 else f" x{line['base_dose']:g}"
    base = "the unchanged model" if line["base"] == "none" else line["base"]
    return f"{base}{own}{dose}{layer}"


def stack_name(line: pd.Series) -> str:
    """What runs in a cell: `caa +1 on lora_sft_positive`, or the base alone."""
    if not line["multiplier"]:
        return str(line["base"])
    dose = f"{line['vector']} {line['multiplier']:+g}"
    return dose if line["base"] == "none" else f"{dose} on {line['base']}"


def answer_warnings(cells: pd.DataFrame, judges: pd.DataFrame) -> Iterator[Found]:
    """Warnings about judged answers: scores that rest on broken text, on few judgements, or on a weak judge.

    Args:
        cells: from `answers.answer_table`.
        judges: from `answers.judge_table`.
    """
    yield from _collapse(cells)
    gappy = cells[cells["missing_share"] > MISSING_CAUTION]
    if len(gappy):
        worst = gappy.loc[gappy["missing_share"].idxmax()]
        severity: Severity = "severe" if worst["missing_share"] > MISSING_SEVERE else "caution"
        text = f"Up to {worst['missing_share']:.0%} of a cell's answers have no score (at {stack_name(worst)}): "
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
    moves = sure | (low.isna() & (cells["score_shift"] * sign > MOVED))
    bad = cells[moves & cells["collapsed"].astype(bool)]
    if len(bad):
        worst = bad.loc[bad["distinct_2"].fillna(0.0).idxmin()]
        yield Found(
            severity="severe",
            count=len(bad),
            text=f"The judged score moves with the dose while the text collapses at {stack_name(worst)} (distinct-2 "
            f"{worst['distinct_2']:.2f}, looping {worst['loop_share']:.0%}, cut off {worst['truncated_share']:.0%}, "
            f"empty {worst['empty_share']:.0%}): read the answers before the score.",
        )


def metric_warnings(metrics: pd.DataFrame, shifts: pd.DataFrame) -> Iterator[Found]:
    """Where the perplexity of plain text rises by the factor RISE or more while the behavior moves.

    A steered cell is compared with its own base alone, a base alone with the unchanged model: what each adds itself.

    Args:
        metrics: from `metrics.metric_table`.
        shifts: from `cells.shift_table`, of the evaluators that measure the behavior.
    """
    if shifts.empty or not (metrics["evaluator"] == "perplexity").any():
        return
    clears = (_own_change(shifts, "_low") > 0) | (_own_change(shifts, "_high") < 0)
    movers = shifts.assign(moves=clears)[[*CONDITION, "moves"]].drop_duplicates(CONDITION)
    ratios = metrics[metrics["evaluator"] == "perplexity"].merge(movers, on=CONDITION, how="inner")
    rise, low = _own_change(ratios, ""), _own_change(ratios, "_low")
    costly = ratios[(rise >= RISE) & (low > 1) & ratios["moves"].to_numpy(bool)]
    if costly.empty:
        return
    worst = costly.iloc[int(np.argmax(rise[costly.index]))]
    column = "shift" if worst["multiplier"] else "total"
    plain = column == "total" or worst["base"] == "none"
    below = "the unchanged model's" if plain else f"that of {worst['base']} alone"
    rest = len(costly) - 1
    more = f"; {rest} more condition{'s' if rest > 1 else ''}" if rest else ""
    yield Found(
        severity="caution",
        count=len(costly),
        text=f"The perplexity of plain text is {worst[column]:.2f} [{worst[f'{column}_low']:.2f}, "
        f"{worst[f'{column}_high']:.2f}] times {below} at {stack_name(worst)} (n {worst[f'n_{column}']}{more}), while "
        "the behavior moves: it may cost the model its language.",
    )


def _own_change(table: pd.DataFrame, end: str) -> np.ndarray:
    """What each condition itself changes: a base alone its `total`, a steered cell its `shift`. [C]"""
    alone = table["multiplier"] == 0
    return np.where(alone, table[f"total{end}"], table[f"shift{end}"]).astype(float)
