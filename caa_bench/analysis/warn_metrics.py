"""What a reader of an effect must be told where the model predicts plain text much worse while it is there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from caa_bench.analysis.frames import CONDITION
from caa_bench.analysis.warn_facts import Found

RISE = 1.5
"""Of a perplexity: as large a factor, with its interval above 1, is told of."""


def metric_warnings(metrics: pd.DataFrame, shifts: pd.DataFrame) -> Iterator[Found]:
    """Where the perplexity of plain text rises by RISE and more a token while the behavior moves.

    A steered cell is compared with its own base alone, a base alone with the unchanged model: what each adds itself.

    Args:
        metrics: from `metrics.metric_table`.
        shifts: from `shifts.shift_table`, of the evaluators that measure the behavior.
    """
    if shifts.empty or not (metrics["evaluator"] == "perplexity").any():
        return
    moved = shifts.assign(moves=_moves(shifts))[[*CONDITION, "moves"]].drop_duplicates(CONDITION)
    ratios = metrics[metrics["evaluator"] == "perplexity"].merge(moved, on=CONDITION, how="inner")
    name = np.where(ratios["multiplier"] == 0, "total", "shift")
    rise, low = (_each(ratios, name, end) for end in ("", "_low"))
    dear = ratios[(rise >= RISE) & (low > 1) & ratios["moves"].to_numpy(bool)]
    if dear.empty:
        return
    worst = dear.iloc[int(np.argmax(rise[dear.index]))]
    column = "total" if worst["multiplier"] == 0 else "shift"
    below = (
        "the unchanged model's" if column == "total" or worst["base"] == "none" else f"that of {worst['base']} alone"
    )
    yield Found(
        severity="caution",
        count=len(dear),
        text=f"The perplexity of plain text is {worst[column]:.2f} [{worst[f'{column}_low']:.2f}, "
        f"{worst[f'{column}_high']:.2f}] times {below} at {_where(worst)} (n {worst[f'n_{column}']}"
        f"{_others(len(dear) - 1)}), while the behavior moves: it may cost the model its language.",
    )


def _moves(shifts: pd.DataFrame) -> np.ndarray:
    """Whether the interval of what the condition itself does to the log-odds leaves out 0. [C] bool"""
    name = np.where(shifts["multiplier"] == 0, "total", "shift")
    return (_each(shifts, name, "_low") > 0) | (_each(shifts, name, "_high") < 0)


def _each(table: pd.DataFrame, name: np.ndarray, end: str) -> np.ndarray:
    """Of every line the column that `name` says, `total` or `shift`."""
    return np.where(name == "total", table[f"total{end}"], table[f"shift{end}"]).astype(float)


def _others(count: int) -> str:
    return f"; {count} more conditions" if count > 1 else "; 1 more condition" if count else ""


def _where(line: pd.Series) -> str:
    if not line["multiplier"]:
        return str(line["base"])
    dose = f"{line['vector']} {line['multiplier']:+g}"
    return dose if line["base"] == "none" else f"{dose} on {line['base']}"
