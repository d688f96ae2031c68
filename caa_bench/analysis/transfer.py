"""Does what CAA does to the letter carry over to words? Open-ended effects beside the A/B effects of stacking.csv."""

from __future__ import annotations

import pandas as pd

from caa_bench.analysis.effects import EFFECTS, LINE, find_lines, item_effects, line_sampling
from caa_bench.analysis.fits import effect_intervals
from caa_bench.analysis.frames import RUN, groups
from caa_bench.analysis.resample import DRAWS

EFFECT_COLUMNS = [f"open_ended_{name}{end}" for name in EFFECTS for end in ("", "_low", "_high")]
KEYS = [*[name for name in RUN if name != "evaluator"], *LINE]


def open_effects(item_scores: pd.DataFrame, cells: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """The same effects as in stacking.csv, of the judge's score (0-1) over the same questions.

    Returns:
        `KEYS`, `EFFECT_COLUMNS` and `open_ended_n`, one line per stack; signed by the multiplier but `base_alone`.
    """
    columns = [*KEYS, *EFFECT_COLUMNS, "open_ended_n"]
    parts = []
    for group in groups(item_scores, cells, each_fit=True):
        lines = find_lines(group)
        if not len(lines.keys):
            continue
        how = line_sampling(group, lines, seed=seed, draws=draws)
        effects = item_effects(group.matrix("score"), lines)
        part = lines.keys.assign(**group.keys)
        for name, field in EFFECTS.items():
            found = effect_intervals(getattr(effects, field), how[name])
            part[f"open_ended_{name}"] = found.point
            part[f"open_ended_{name}_low"], part[f"open_ended_{name}_high"] = found.low, found.high
            part["open_ended_n"] = found.n
        parts.append(part[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def beside(stacking: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """stacking.csv with the open-ended effects in its last columns; NaN where a stack has none."""
    return stacking.merge(effects, on=KEYS, how="left")
