"""Does CAA still add when the base is already there? One line per stack: stacking.csv. NUMBERS.md 5-13."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import LOW_MASS, SATURATION, column_mean, share_of
from caa_bench.analysis.effects import EFFECTS, LINE, Effects, Lines, find_lines, item_effects, line_sampling, pick
from caa_bench.analysis.fits import Sampling, effect_intervals, effect_p_values, effect_ratios, fit_means, fits_disagree
from caa_bench.analysis.frames import RUN, Group, groups
from caa_bench.analysis.intervals import benjamini_hochberg
from caa_bench.analysis.power import detectable_effect
from caa_bench.analysis.resample import DRAWS
from caa_bench.analysis.transfer import beside
from caa_bench.analysis.verdict import SMALLEST, Evidence, Verdict, judge


def _with_ends(names: Sequence[str]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


COLUMNS = [
    *RUN, *LINE, "family", "n", "n_clusters", "n_fits", *_with_ends([*EFFECTS, "retention"]), "p_value", "q_value",
    *_with_ends([f"{name}_p" for name in EFFECTS]), "p_before", "p_after", "room", "detectable_effect",
    "mass_low_share", "letter_locked", "saturated_share", "fits_disagree", "verdict", "tags", "verdict_text", "caveats",
]  # fmt: skip


def stacking_table(
    item_scores: pd.DataFrame,
    cells: pd.DataFrame,
    *,
    primary: pd.DataFrame | None = None,
    in_words: pd.DataFrame | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """CAA alone, on top of each base, their interaction and retention, with intervals, tests and a verdict.

    Args:
        item_scores: from `items.item_scores`.
        cells: as for `cells.cell_table`; an optional column `fit` names seeds or resamples of one condition.
        primary: the doses fixed on the selection split: any of the columns of `RUN` and `LINE`, one line a dose (say
            behavior, layer, multiplier). Without it a dose is primary only where it needed no choice: see `_default`.
        in_words: the same effects on the score of answers in words, from `transfer.open_effects`.

    Returns:
        `COLUMNS`, with `in_words` its columns behind them; one line per base other than "none", vector, layer and
        multiplier other than 0. Effects are means over the same items, log-odds (and probability with `_p`), signed by
        the multiplier; `base_alone` is not. NaN is n/a. `caa_` stands for whatever vector the line names.
    """
    tables = [_group_table(group, seed=seed, draws=draws) for group in groups(item_scores, cells, each_fit=True)]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(tables, ignore_index=True)
    table["family"] = np.where(_is_primary(table, primary), "primary", "exploratory")
    table["q_value"] = np.nan
    for _, part in table.groupby(["model", "protocol", "split", "evaluator", "family"], dropna=False):
        table.loc[part.index, "q_value"] = benjamini_hochberg(part["p_value"].to_numpy())
    both = table if in_words is None else beside(table, in_words)
    verdicts = [judge(evidence(line)) for line in both.to_dict("records")]
    more = [name for name in both if name not in table]
    return pd.concat([both, _words(verdicts, both["vector"])], axis=1)[[*COLUMNS, *more]]


def evidence(line: dict) -> Evidence:
    """The verdict's evidence from one stacking line."""
    renamed = {"alone": "alone", "on_top": "on_top", "open_ended_on_top": "in_words", "q_value": "q"}
    fields = {}
    for column, value in line.items():
        for old, new in renamed.items():
            if column in (old, f"{old}_low", f"{old}_high"):
                column = column.replace(old, new)
        if column in Evidence.__dataclass_fields__:
            fields[column] = value
    return Evidence(**fields)


def fit_table(item_scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Each fit's own effects, the dots behind a stacking line: `RUN`, `LINE`, `fit` and the means of A, T, D.

    One line per stacking line and fit; log-odds, over the same items as the stacking line.
    """
    parts = []
    for group in groups(item_scores, cells, each_fit=True):
        lines = find_lines(group)
        y = item_effects(group.matrix("log_odds"), lines)
        means = {name: fit_means(getattr(y, field)) for name, field in EFFECTS.items()}
        for fit in range(lines.both.shape[1]):
            here = lines.n_fits > fit
            part = lines.keys[here].assign(**group.keys, fit=group.cells["fit"].to_numpy()[lines.both[here, fit]])
            parts.append(part.assign(**{name: values[here, fit] for name, values in means.items()}))
    columns = [*RUN, *LINE, "fit", *EFFECTS]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _group_table(group: Group, *, seed: int, draws: int) -> pd.DataFrame:
    lines = find_lines(group)
    table = lines.keys.assign(**group.keys)
    if not len(table):
        return table
    how = line_sampling(group, lines, seed=seed, draws=draws)
    y = item_effects(group.matrix("log_odds"), lines)
    p = item_effects(group.matrix("p_balanced"), lines)
    for suffix, effects in (("_p", p), ("", y)):
        found = {name: effect_intervals(getattr(effects, field), how[name]) for name, field in EFFECTS.items()}
        for name, interval in found.items():
            table[f"{name}{suffix}"] = interval.point
            table[f"{name}{suffix}_low"], table[f"{name}{suffix}_high"] = interval.low, interval.high
    table["n"], table["n_clusters"] = found["on_top"].n, found["on_top"].n_clusters
    table["detectable_effect"] = detectable_effect(found["interaction"].se)
    table["p_value"] = effect_p_values(y.interaction, how["interaction"])
    table["fits_disagree"] = fits_disagree(y.on_top, smallest=SMALLEST)
    return _retention(table, y, how["on_top"]).assign(n_fits=lines.n_fits, **_context(group, lines))


def _retention(table: pd.DataFrame, y: Effects, how: Sampling) -> pd.DataFrame:
    """T / A with its Fieller interval; n/a unless A's interval excludes 0 and A is at least `SMALLEST`."""
    ratio = effect_ratios(y.on_top, y.alone, how)
    known = (table["alone_low"] > 0) & (table["alone"] >= SMALLEST)
    ends = {"retention": ratio.point, "retention_low": ratio.low, "retention_high": ratio.high}
    return table.assign(**{name: np.where(known, values, np.nan) for name, values in ends.items()})


def _context(group: Group, lines: Lines) -> dict[str, np.ndarray]:
    """Levels before and after, room, and the worst gate of the cells a line uses."""
    p, mass, y = group.matrix("p_balanced"), group.matrix("option_mass"), group.matrix("log_odds")
    before = column_mean(fit_means(pick(p, lines.base)).T)
    low_mass, saturated = share_of(mass < LOW_MASS, mass), share_of(np.abs(y) > SATURATION, y)
    locked = column_mean(group.matrix("letter_locked"))
    used = [lines.none, lines.vector, lines.base, lines.both]
    return {
        "p_before": before,
        "p_after": column_mean(fit_means(pick(p, lines.both)).T),
        "room": np.where(lines.sign > 0, 1 - before, before),
        "mass_low_share": _worst(low_mass, used),
        "letter_locked": _worst(locked, used),
        "saturated_share": _worst(saturated, used[2:]),
    }


def _worst(share: np.ndarray, used: list[np.ndarray]) -> np.ndarray:
    """The largest share over the cells used [L, F], NaN where none has one."""
    values = np.stack([np.where(columns < 0, np.nan, share[columns]) for columns in used])
    values = np.where(np.isnan(values), -1.0, values).max(axis=(0, 2))
    return np.where(values < 0, np.nan, values)


def _is_primary(table: pd.DataFrame, primary: pd.DataFrame | None) -> np.ndarray:
    if primary is None:
        return _default(table)
    columns = [column for column in primary.columns if column in table.columns]
    chosen = primary[columns].drop_duplicates().assign(_chosen=True)
    found = table.merge(chosen, on=columns, how="left")["_chosen"].notna().to_numpy()
    home = (table["vector"] == "caa").to_numpy() if "vector" not in columns else np.ones(len(table), dtype=bool)
    full = (table["base_dose"] == 1).to_numpy() if "base_dose" not in columns else np.ones(len(table), dtype=bool)
    own = table["vector_behavior"].isin([""]) | (table["vector_behavior"] == table["behavior"])
    return found & home & full & (own.to_numpy() if "vector_behavior" not in columns else True)


def _default(table: pd.DataFrame) -> np.ndarray:
    """Doses that needed no choice: the behavior's own CAA vector, run at one layer only, at multipliers +1 and -1."""
    own = table["vector_behavior"].isin([""]) | (table["vector_behavior"] == table["behavior"])
    home = (table["vector"] == "caa") & own & (table["base_dose"] == 1) & table["multiplier"].isin([1.0, -1.0])
    layers = table[table["vector"] == "caa"].groupby(RUN)["layer"].nunique()
    single = [layers.get(key, 0) == 1 for key in table[RUN].itertuples(index=False, name=None)]
    return (home & np.array(single)).to_numpy()


def _words(verdicts: list[Verdict], vectors: pd.Series) -> pd.DataFrame:
    """Verdict columns; a placebo's phrase names the placebo, not CAA."""
    named = [v.text.replace("CAA", "CAA" if name == "caa" else name) for v, name in zip(verdicts, vectors, strict=True)]
    return pd.DataFrame(
        {
            "verdict": [v.verdict for v in verdicts],
            "tags": [";".join(v.tags) for v in verdicts],
            "verdict_text": named,
            "caveats": [";".join(v.caveats) for v in verdicts],
        },
        index=vectors.index,
    )
