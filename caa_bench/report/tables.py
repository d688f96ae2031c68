"""Rows -> the tables of a run. Every call into the analysis that computes one stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from caa_bench.analysis.answers import COLUMNS, answer_scores, answer_table, judge_table
from caa_bench.analysis.cells import SCALES, cell_table, effect_by_half, macro, metric_table, shift_table
from caa_bench.analysis.diagnostics import COLUMNS as PAIR_COLUMNS
from caa_bench.analysis.diagnostics import from_lines
from caa_bench.analysis.effects import open_effects
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.frames import grouped, mean_over_fits
from caa_bench.analysis.intervals import bootstrap_mean
from caa_bench.analysis.items import item_scores
from caa_bench.analysis.placebos import placebo_draws
from caa_bench.analysis.reliability import item_reliability, reliability_table
from caa_bench.analysis.stacking import fit_levels, stacking_table
from caa_bench.errors import UserError
from caa_bench.judges.base import Asked, Judgement
from caa_bench.judges.judgements import FILE, Judgements, judgement_key
from caa_bench.report.headline import OPEN_ENDED, of_behavior
from caa_bench.report.words import display
from caa_bench.runs.folder import RowStore
from caa_bench.runs.record import RunRecord
from caa_bench.storage.files import terminal_safe
from caa_bench.storage.row_kinds import SERVER

PAIR_PLACE = ["vector", "vector_behavior", "vector_model"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a run's answers in words come to.

    Args:
        cells: one line a cell (part of cells.csv), in the plan's order.
        items: one line a cell and question, with the text, and in `server` who generated it, if not this machine.
        judges: one line a judge (judges.csv), the leading one first.
        effects: the stacking effects of the score (part of stacking.csv).
    """

    cells: pd.DataFrame
    items: pd.DataFrame
    judges: pd.DataFrame
    effects: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What a run shows, as tables.

    Args:
        cells: one line a cell (cells.csv).
        stacking: one line a base, vector, layer and multiplier (stacking.csv); with the effects in words where the run
            has answers in words.
        items: one line a condition and item, the mean over its fits: what every table is computed from.
        shifts: one line a cell, against its own base and against the unchanged model (shifts.csv).
        reliability: one line a dose curve: slope, rank correlation, anti-steerable share (reliability.csv).
        item_reliability: the same, one line an item (items.csv).
        fits: one line a cell of each fit, where there are several (fits.csv).
        placebos: one line a draw of each placebo and place (placebos.csv); empty where none ran.
        vectors: one line a vector and layer: how far its training pairs agree (vectors.csv); empty where not known.
        answers: the answers in words, where the run has some; None else.
        metrics: one line a cell, task and metric that is measured beside the behavior (metrics.csv); empty without any.
        metric_items: the same, one line an item: the metric of that item alone.
        done: keys of the batches whose rows are there.
    """

    cells: pd.DataFrame
    stacking: pd.DataFrame
    items: pd.DataFrame
    shifts: pd.DataFrame
    reliability: pd.DataFrame
    item_reliability: pd.DataFrame
    fits: pd.DataFrame
    placebos: pd.DataFrame
    vectors: pd.DataFrame
    answers: Answers | None
    metrics: pd.DataFrame
    metric_items: pd.DataFrame
    done: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of cells, item by item: its mean with a 95% interval (NaN below 20 items), and its items."""

    point: float
    low: float
    high: float
    n: int


def make_tables(folder: Path, record: RunRecord) -> Tables:
    """Every table of a run folder.

    Raises:
        UserError: no batch is finished yet.
    """
    store = RowStore(folder / "rows.jsonl")
    if not store.done:
        raise nothing_yet(folder, status=record.status)
    every = pd.DataFrame(list(record.cells)).rename(columns={"key": "cell"}).set_index("cell")
    answers, metrics = _answers(folder, record, store, every), _metrics(store, every, record)
    beside = {*metrics.get("evaluator", ()), *(() if answers is None else answers.cells["evaluator"])}
    cells = every[~every["evaluator"].isin(beside)]
    groups, how = grouped(item_scores(store.frame(), protocol=record.protocol), cells), record.how
    measuring = set(of_behavior(cells)["evaluator"])
    behavior = tuple(group for group in groups if group.keys["evaluator"] in measuring)
    in_words = None if answers is None else answers.effects
    stacked = stacking_table(behavior, how=how, placebos=record.placebos, in_words=in_words, shown=display)
    fits = fit_levels(behavior)
    return Tables(
        cells=_in_plan_order(cell_table(groups, how=how), cells),
        stacking=_in_plan_order(stacked, cells),
        items=mean_over_fits(groups),
        shifts=shift_table(groups, how=how),
        reliability=reliability_table(behavior, how=how),
        item_reliability=item_reliability(behavior),
        fits=_in_plan_order(fits[~fits["vector"].isin(list(record.placebos))], cells),
        placebos=placebo_draws(behavior, placebos=record.originals),
        vectors=_vectors(record),
        answers=answers,
        metrics=metrics,
        metric_items=_metric_items(store),
        done=frozenset(store.done),
    )


def nothing_yet(folder: Path, *, status: str) -> UserError:
    """A stopped run goes on by itself; in one that failed something must be mended first."""
    failed = "the command said what failed; mend that first"
    rest = failed if status == "error" else "run the same command again to go on"
    return UserError(f"{terminal_safe(str(folder))}: no batch is finished yet; {rest}")


def contrast(tables: Tables, weights: Mapping[str, float], how: Resampling) -> Contrast:
    """The mean over items of the weighted sum of cells' log-odds, over the items that all of them have.

    Args:
        weights: cell -> weight; a cell of weight 0 is left out.
        how: seed and draws of the resampling.
    """
    used = {cell: weight for cell, weight in weights.items() if weight}
    (group,) = grouped(tables.items, tables.cells[tables.cells["cell"].isin(list(used))])
    values = group.mean("log_odds")
    moved = values @ [[used[cell]] for cell in group.cells["cell"]]
    found = bootstrap_mean(macro(moved, group.categories), group.clusters, how=how)
    return Contrast(point=found.point[0], low=found.low[0], high=found.high[0], n=int(found.n[0]))


def by_half(tables: Tables, cells: pd.DataFrame, *, longer: Sequence[str], how: Resampling) -> pd.DataFrame:
    """The shifts of some cells where the matching option is the longer one, and where it is not (column `half`)."""
    used = cells.set_index("cell")
    items = tables.items[tables.items["cell"].isin(used.index)]
    return effect_by_half(grouped(items, used), longer=longer, how=how)


def _answers(folder: Path, record: RunRecord, store: RowStore, every: pd.DataFrame) -> Answers | None:
    """The answers in words: a pure function of the rows and the judgements beside them; None where none were planned.

    Judges are those of the last run.
    """
    cells = every[every["evaluator"] == OPEN_ENDED]
    if cells.empty:
        return None
    rows, kept = store.answers(), Judgements(folder / FILE)
    said = [[_said(judge, row, kept) for row in rows] for judge in record.judges]
    scores = [[None if one is None else one.score for one in own] for own in said]
    unjudged = [sum(bool(row["text"]) and one is None for row, one in zip(rows, own, strict=True)) for own in said]
    items = answer_scores(rows, scores).assign(server=[str(row.get(SERVER, "")) for row in rows])
    table = judge_table(record.judges, scores, unjudged, clusters=items["cluster"].tolist(), how=record.how)
    lead, accuracy = (table.loc[0, "judge"], table.loc[0, "held_out_accuracy"]) if len(table) else ("", float("nan"))
    groups = grouped(items, cells)
    levels = answer_table(groups, judge=lead, accuracy=accuracy, how=record.how)[COLUMNS]
    return Answers(
        cells=_in_plan_order(levels, every),
        items=items,
        judges=table,
        effects=open_effects(groups, how=record.how),
    )


def _said(judge: Mapping[str, Any], row: Mapping[str, Any], kept: Judgements) -> Judgement | None:
    if not row["text"]:
        return None
    key = judgement_key(judge["settings"], Asked(question=row["question"], text=row["text"]))
    return kept.of(judge["name"]).get(key)


def _metrics(store: RowStore, every: pd.DataFrame, record: RunRecord) -> pd.DataFrame:
    """Metrics of their own (metrics.csv); an empty table without a row of any."""
    rows = store.metrics()
    seen = every.index.isin({row["cell"] for row in rows})
    own = every[every["evaluator"].isin(every.loc[seen, "evaluator"])]
    if own.empty:
        return pd.DataFrame()
    return _in_plan_order(metric_table(rows, own, how=record.how), every, first=["evaluator", "task", "metric"])


def _metric_items(store: RowStore) -> pd.DataFrame:
    """The metric of each item by itself: `cell`, `task`, `metric`, `item` and `value`, NaN of an item in error."""
    found = [
        {name: row[name] for name in ("cell", "task", "metric", "item")}
        | {"value": float("nan") if row["value"] is None else SCALES[row["aggregation"]](row["value"] / row["weight"])}
        for row in store.metrics()
    ]
    return pd.DataFrame(found, columns=["cell", "task", "metric", "item", "value"])


def _vectors(record: RunRecord) -> pd.DataFrame:
    """One line a vector that was made from pairs and a layer; empty where no fit left its diagnostics.

    Returns:
        `PAIR_PLACE`, the columns of `analysis.diagnostics.COLUMNS` and `relative_norm`: what multiplier 1 adds, over
        the median norm of the activations there.
    """
    sources = {str(cell["vector"]): cell for cell in record.cells if cell["vector"]}
    parts = []
    for label, lines in record.diagnostics.items():
        source = sources.get(label, {})
        names = {"vector": label} | {name: str(source.get(name) or "") for name in PAIR_PLACE[1:]}
        parts.append(from_lines(lines).assign(**names))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*PAIR_PLACE, *PAIR_COLUMNS])
    table = table.assign(relative_norm=table["norm"] / table["residual_norm"])
    return table[[*PAIR_PLACE, *PAIR_COLUMNS, "relative_norm"]]


def _in_plan_order(table: pd.DataFrame, cells: pd.DataFrame, *, first: Sequence[str] = ("evaluator",)) -> pd.DataFrame:
    """The table's lines by `first`, then with bases and vectors as the recipe has them, the plain model first."""
    places = {column: {name: i for i, name in enumerate(cells[column].unique())} for column in ("base", "vector")}
    return table.sort_values(
        [*first, "base", "vector"],
        key=lambda values: values.map(places[values.name]) if values.name in places else values,
        kind="stable",
        ignore_index=True,
    )
