"""Does a vector still add when the base is already there? One line per stack: stacking.csv, and the dots of fits.csv.

docs/numbers.md 5-14. Nothing here is written for one vector method: which vectors are placebos is passed in, every
other vector is a method in its own right and gets the same families, verdicts and tags.
Shapes: N items, C conditions, L lines, F fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from caa_bench.analysis.cells import LOW_MASS, SATURATION, column_mean, share_of
from caa_bench.analysis.effects import (
    EFFECTS,
    LINE,
    WORDS_KEYS,
    Effects,
    Lines,
    estimated,
    find_lines,
    four_cells,
    item_effects,
    line_designs,
)
from caa_bench.analysis.estimates import STANDARD, Estimate, Interval, Resampling
from caa_bench.analysis.fits import Design, effect_p_values, effect_ratios, fit_means, fits_disagree
from caa_bench.analysis.frames import CONDITION, RUN, Group
from caa_bench.analysis.intervals import benjamini_hochberg
from caa_bench.analysis.power import Noise, detectable_effect, detectable_with
from caa_bench.analysis.verdict import (
    SMALLEST,
    Evidence,
    Spread,
    Verdict,
    spread_of,
    verdict_of,
    verdict_stability,
)

COLUMNS = [
    *RUN, *LINE, "family", "n", "n_clusters", "n_fits", *Estimate.columns(*EFFECTS, "retention"), "p_value", "q_value",
    *Estimate.columns(*(f"{name}_p" for name in EFFECTS)), "p_before", "p_after", "room", "detectable_effect",
    "spread_items", "spread_fits", "mass_low_share", "letter_locked", "saturated_share", "fits_disagree", "verdict",
    "verdict_stability", "tags", "verdict_text", "caveats",
]  # fmt: skip
VERDICT_COLUMNS = ["verdict", "tags", "verdict_text", "caveats"]
FIT_COLUMNS = ["cell", *RUN, *CONDITION, "fit", "n", "p_balanced", "log_odds", *EFFECTS]
FAMILY = ["model", "protocol", "split", "evaluator", "family"]
"""Lines that share these are one false-discovery family: all behaviors and all vector methods of a run together."""
NO_PLACEBOS: Mapping[str, str] = {}


def stacking_table(
    groups: Sequence[Group],
    *,
    how: Resampling = STANDARD,
    placebos: Mapping[str, str] = NO_PLACEBOS,
    in_words: pd.DataFrame | None = None,
    shown: Callable[[str], str] = str,
) -> pd.DataFrame:
    """A vector alone, on top of each base, their interaction and retention, with intervals, tests and a verdict.

    Args:
        groups: of `items.item_scores`.
        placebos: vector -> the vector whose placebo it is. A placebo's lines are exploratory.
        in_words: the same effects on the score of answers in words, from `effects.open_effects`.
        shown: a vector as a reader is told it ("caa" -> "CAA"). `verdict` names the method, a placebo's original;
            `verdict_text` the vector itself.

    Returns:
        `COLUMNS`, with `in_words` its columns behind them; one line per base other than "none", vector, layer and
        multiplier other than 0. Effects are means over the same items, log-odds (and probability with `_p`), signed by
        the multiplier; `base_alone` is not. NaN is n/a. `spread_items` and `spread_fits`: of the interaction, see
        `stability.Spread`; `verdict_stability`: share of resamples with the same verdict (0-1).
    """
    tables = [table for table in (_of_group(group, how) for group in groups) if len(table)]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(tables, ignore_index=True)
    table["family"] = np.where(_needed_no_choice(table, placebos), "primary", "exploratory")
    table["q_value"] = np.nan
    for _, part in table.groupby(FAMILY, dropna=False):
        table.loc[part.index, "q_value"] = benjamini_hochberg(part["p_value"].to_numpy())
    both = table if in_words is None else table.merge(in_words, on=WORDS_KEYS, how="left")
    spread = Spread(**{field.name: both[f"spread_{field.name}"].to_numpy(float) for field in fields(Spread)})
    lines = both.to_dict("records")
    both["verdict_stability"] = verdict_stability([evidence(line) for line in lines], lines, spread)
    more = [] if in_words is None else [name for name in in_words if name not in WORDS_KEYS]
    return _with_verdicts(both, placebos=placebos, shown=shown)[[*COLUMNS, *more]]


def one_family(
    tables: Sequence[pd.DataFrame], *, placebos: Mapping[str, str] = NO_PLACEBOS, shown: Callable[[str], str] = str
) -> list[pd.DataFrame]:
    """The stacking tables of several runs with q-values and verdicts as if they were one run.

    All primary (all exploratory) lines of one protocol, split and evaluator are one false-discovery family, whatever
    their model and behavior: who reads many runs beside each other tests as many interactions. `verdict_stability` is
    of the verdict in its own run, NaN where that is another one.
    """
    if not any(map(len, tables)):
        return list(tables)
    every = pd.concat(tables, keys=range(len(tables)))
    joint = pd.Series(np.nan, index=every.index)
    for _, part in every.groupby([name for name in FAMILY if name != "model"], dropna=False):
        joint[part.index] = benjamini_hochberg(part["p_value"].to_numpy())
    found = []
    for number, table in enumerate(tables):
        if len(table):
            again = table.drop(columns=VERDICT_COLUMNS).assign(q_value=joint.loc[number].reindex(table.index))
            again = _with_verdicts(again, placebos=placebos, shown=shown)[list(table.columns)]
            same = again["verdict"] == table["verdict"]
            table = again.assign(verdict_stability=table["verdict_stability"].where(same))
        found.append(table)
    return found


def _with_verdicts(table: pd.DataFrame, *, placebos: Mapping[str, str], shown: Callable[[str], str]) -> pd.DataFrame:
    """The lines with `VERDICT_COLUMNS`, from the numbers in them."""
    methods = [placebos.get(vector, vector) for vector in table["vector"]]
    verdicts = [
        verdict_of(evidence(line), vector=shown(method))
        for line, method in zip(table.to_dict("records"), methods, strict=True)
    ]
    names = [(shown(method), shown(vector)) for method, vector in zip(methods, table["vector"], strict=True)]
    return pd.concat([table, _verdict_columns(verdicts, names).set_index(table.index)], axis=1)


def evidence(line: Mapping[str, object]) -> Evidence:
    """The verdict's evidence from one stacking line."""
    spans = {"alone": "alone", "on_top": "on_top", "retention": "retention"}
    if "open_ended_on_top" in line:
        spans["in_words"] = "open_ended_on_top"
    plain = [
        "n", "n_clusters", "p_before", "p_after", "room", "mass_low_share", "letter_locked", "saturated_share",
        "fits_disagree", "n_fits",
    ]  # fmt: skip
    found = {name: Interval.take(line, column) for name, column in spans.items()}
    return Evidence(q=line["q_value"], **found, **{name: line[name] for name in plain})  # type: ignore[arg-type]


def fit_levels(groups: Sequence[Group]) -> pd.DataFrame:
    """Each fit of a condition by itself, the dots behind its mean; none for what is not fitted, or fitted once.

    Returns:
        `FIT_COLUMNS`: means over items without intervals, which belong to the mean over the fits; on a stacking line
        the fit's own A, B, T and D (log-odds, signed by the multiplier but for `base_alone`), NaN elsewhere.
    """
    parts = [part for part in map(_fit_lines, groups) if len(part)]
    return pd.concat(parts, ignore_index=True)[FIT_COLUMNS] if parts else pd.DataFrame(columns=FIT_COLUMNS)


def _fit_lines(group: Group) -> pd.DataFrame:
    y, p, lines = group.by_fit("log_odds"), group.by_fit("p_balanced"), find_lines(group)
    effects = item_effects(group, "log_odds", lines)
    means = {name: fit_means(getattr(effects, name)) for name in EFFECTS}  # each [L, F]
    line_of = np.full(len(group.members), -1)
    line_of[lines.both] = np.arange(len(lines.both))
    places = [
        (condition, fit, number, cell)
        for condition, own in enumerate(group.members)
        for fit, (number, cell) in enumerate(own.items())
        if number
    ]
    if not places:
        return pd.DataFrame(columns=FIT_COLUMNS)
    condition, fit = np.array([place[:2] for place in places]).T
    table = group.cells.iloc[condition][[*RUN, *CONDITION]].reset_index(drop=True)
    table["fit"], table["cell"] = [place[2] for place in places], [place[3] for place in places]
    table["n"] = (~np.isnan(y)).sum(axis=0)[condition, fit]
    table["p_balanced"], table["log_odds"] = column_mean(p)[condition, fit], column_mean(y)[condition, fit]
    for name, values in means.items():
        stacked = line_of[condition] >= 0
        own = values[np.where(stacked, line_of[condition], 0), fit] if len(values) else np.nan
        table[name] = np.where(stacked, own, np.nan)
    return table


def _of_group(group: Group, how: Resampling) -> pd.DataFrame:
    lines = find_lines(group)
    table = lines.keys.assign(**group.keys)
    if not len(table):
        return table
    y, designs = item_effects(group, "log_odds", lines), line_designs(group, "log_odds", lines, how)
    for name, found in estimated(group, "p_balanced", lines, how=how).items():
        found.put(table, f"{name}_p")
    effects = estimated(group, "log_odds", lines, how=how)
    for name, found in effects.items():
        found.put(table, name)
    table["n"], table["n_clusters"] = effects["on_top"].n, effects["on_top"].n_clusters
    table["p_value"] = effect_p_values(y.interaction, designs["interaction"])
    table["fits_disagree"] = fits_disagree(y.on_top, smallest=SMALLEST)
    _retention(y, effects["alone"], designs["on_top"]).put(table, "retention")
    spread = spread_of(y, on_top=designs["on_top"], interaction=designs["interaction"])
    table = table.assign(**{f"spread_{name}": values for name, values in vars(spread).items()})
    table["detectable_effect"] = _detectable(effects["interaction"], spread, lines.n_fits)
    return table.assign(n_fits=lines.n_fits, **_context(group, lines))


def _detectable(interaction: Estimate, spread: Spread, n_fits: np.ndarray) -> np.ndarray:
    """The smallest interaction that is found in 80% of such runs. [L]"""
    found = detectable_effect(interaction.se)
    for line in np.flatnonzero(n_fits > 1):
        noise = Noise.seen(items=spread.items[line], fits=spread.fits[line], n_fits=int(n_fits[line]))
        found[line] = detectable_with(noise, n=int(interaction.n[line]))
    return found


def _retention(y: Effects, alone: Estimate, design: Design) -> Estimate:
    """T / A; n/a unless A's interval excludes 0 and A is at least `SMALLEST`: a ratio to nothing says nothing."""
    ratio = effect_ratios(y.on_top, y.alone, design)
    return ratio.where((alone.low > 0) & (alone.point >= SMALLEST))


def _context(group: Group, lines: Lines) -> dict[str, np.ndarray]:
    """Levels before and after, room, and the worst gate of the cells a line uses."""
    p, mass, y, locked = (
        np.stack(four_cells(group, name, lines))  # [4, N, L, F]
        for name in ("p_balanced", "option_mass", "log_odds", "letter_locked")
    )
    before, after = (column_mean(fit_means(values).T) for values in (p[2], p[3]))
    items_first = [np.moveaxis(values, 1, 0) for values in (mass, y, locked)]  # [N, 4, L, F]
    mass, y, locked = items_first
    return {
        "p_before": before,
        "p_after": after,
        "room": np.where(lines.sign > 0, 1 - before, before),
        "mass_low_share": _worst(share_of(mass < LOW_MASS, mass)),
        "letter_locked": _worst(column_mean(locked)),
        "saturated_share": _worst(share_of(np.abs(y) > SATURATION, y)[2:]),
    }


def _worst(share: np.ndarray) -> np.ndarray:
    """The largest share over the cells used, NaN where none has one. [4, L, F] -> [L]"""
    worst = np.where(np.isnan(share), -1.0, share).max(axis=(0, 2))
    return np.where(worst < 0, np.nan, worst)


def _needed_no_choice(table: pd.DataFrame, placebos: Mapping[str, str]) -> np.ndarray:
    """Lines whose layer and dose nobody chose: a method's own vector, run at one layer only, at +1 or -1. [L] bool"""
    own = table["vector_behavior"].isin([""]) | (table["vector_behavior"] == table["behavior"])
    home = ~table["vector"].isin(list(placebos)) & own & (table["base_dose"] == 1)
    layers = table.groupby([*RUN, "vector"], dropna=False)["layer"].transform("nunique")
    return (home & table["multiplier"].isin([1.0, -1.0]) & (layers == 1)).to_numpy()


def _verdict_columns(verdicts: Sequence[Verdict], names: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Verdict columns; `names`: of the method and of the vector itself, which a placebo's phrase names."""
    return pd.DataFrame(
        {
            "verdict": [v.verdict for v in verdicts],
            "tags": [";".join(v.tags) for v in verdicts],
            "verdict_text": [v.text.replace(*pair) for v, pair in zip(verdicts, names, strict=True)],
            "caveats": [";".join(v.caveats) for v in verdicts],
        }
    )
