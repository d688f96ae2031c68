"""Rows -> tables, figures and report.html. A pure function of a run folder; needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.report.notebook import shown_briefly, shown_in_a_notebook
from caa_bench.runs.folder import RowStore, read_manifest
from caa_bench.storage.files import csv_cell, terminal_safe, write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report.answers import Answers
    from caa_bench.report.attention import Notice


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run shows.

    Args:
        folder: the run folder.
        manifest: its manifest.
        cells: one line a cell (cells.csv).
        stacking: one line a base, vector, layer and multiplier (stacking.csv); with the effects in words where the run
            has answers in words.
        items: one line a condition and item, the mean over its fits: what every table is computed from.
        shifts: one line a cell, against its own base and against the unchanged model (shifts.csv).
        reliability: one line a dose curve: slope, rank correlation, anti-steerable share (reliability.csv).
        item_reliability: the same, one line an item (items.csv).
        notices: what a reader must know, worst first.
        fits: one line a cell of each fit, where there are several (fits.csv).
        vectors: one line a vector and layer: how far its training pairs agree (vectors.csv); empty where not known.
        answers: the answers in words, where the run has some; None else.
        metrics: one line a cell, task and metric that is measured beside the behavior (metrics.csv); None without any.
    """

    folder: Path
    manifest: dict[str, Any]
    cells: pd.DataFrame
    stacking: pd.DataFrame
    items: pd.DataFrame
    shifts: pd.DataFrame
    reliability: pd.DataFrame
    item_reliability: pd.DataFrame
    fits: pd.DataFrame
    vectors: pd.DataFrame
    notices: tuple[Notice, ...] = ()
    answers: Answers | None = None
    metrics: pd.DataFrame | None = None

    def __repr__(self) -> str:
        """Where it is and how large; `print(report.text())` shows the tables."""
        return shown_briefly(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentence and the tables as in a terminal."""
        return shown_in_a_notebook(self)

    @cached_property
    def matched(self) -> pd.DataFrame:
        """One line a base, of a selection split with several doses (matched.csv); empty elsewhere."""
        from caa_bench.report.headline import headline
        from caa_bench.report.matched import matched_table

        return matched_table(self, headline(self))

    @cached_property
    def equal_loss(self) -> pd.DataFrame:
        """One line an arm and budget, where capability was measured (equal_loss.csv); empty elsewhere."""
        from caa_bench.report.equal_loss import equal_loss_table
        from caa_bench.report.headline import headline

        return equal_loss_table(self, headline(self))

    def text(self, *, detail: bool = False, timings: bool = True) -> str:
        """The tables as printed.

        Args:
            detail: every vector, layer and dose and not only those that lead.
            timings: with fit seconds, which are not the same in two runs.
        """
        from caa_bench.report.table import render

        return render(self, detail=detail, timings=timings)


def write_report(folder: Path) -> Report:
    """Compute everything that a run shows from its rows and write it beside them.

    Tables (`*.csv`, `table.txt`), `recipe.yaml`, `report.html`, and `figures/` (SVG, PNG, CSV, LaTeX, BibTeX). The same
    rows give the same bytes, but for the fit seconds in report.html, which are marked `data-timing`.

    Raises:
        UserError: no run folder, one that is damaged, or a full disk.
    """
    from caa_bench.report.figures import write_figures
    from caa_bench.report.latex import stacking_latex
    from caa_bench.report.methods import bibtex, methods_latex
    from caa_bench.report.page import render_page
    from caa_bench.report.repeat import recipe_yaml

    report = make_report(folder)
    for name, table in tables(report).items():
        write_atomic(folder / f"{name}.csv", to_csv(table))
    write_atomic(folder / "items.csv", to_csv(report.item_reliability))
    write_atomic(folder / "table.txt", report.text(detail=True, timings=False) + "\n")
    write_atomic(folder / "recipe.yaml", recipe_yaml(report.manifest))
    write_atomic(folder / "report.html", render_page(report))
    (folder / "figures").mkdir(exist_ok=True)
    write_atomic(folder / "figures" / "stacking.tex", stacking_latex(report))
    write_atomic(folder / "figures" / "methods.tex", methods_latex(report))
    write_atomic(folder / "figures" / "references.bib", bibtex(report.manifest))
    write_figures(report, folder / "figures")
    return report


def make_report(folder: Path) -> Report:
    """The tables of a run folder, computed but not written.

    Raises:
        UserError: no run folder, one that is damaged, or one without a finished batch.
    """
    import pandas as pd

    from caa_bench.analysis.cells import cell_table
    from caa_bench.analysis.fit_levels import fit_levels
    from caa_bench.analysis.frames import mean_over_fits
    from caa_bench.analysis.items import item_scores
    from caa_bench.analysis.reliability import item_reliability, reliability_table
    from caa_bench.analysis.shifts import shift_table
    from caa_bench.analysis.stacking import stacking_table
    from caa_bench.report.attention import notices
    from caa_bench.report.conditions import of_behavior
    from caa_bench.report.vectors import vector_lines

    manifest = read_manifest(folder)
    recipe = manifest["recipe"]
    every = pd.DataFrame(manifest["facts"]["cells"]).rename(columns={"key": "cell"}).set_index("cell")
    store = RowStore(folder / "rows.jsonl")
    if not store.done:
        raise UserError(f"{terminal_safe(str(folder))}: no batch is finished yet; run the same command again to go on")
    settings = {"seed": recipe["seed"], "draws": recipe["draws"]}
    answers, metrics = _answers(folder, manifest, store, every), _metrics(store, every, **settings)
    beside = {
        *(() if answers is None else answers.cells["evaluator"]),
        *(() if metrics is None else metrics["evaluator"]),
    }
    cells = every[~every["evaluator"].isin(beside)]
    items, behavior = item_scores(store.frame(), protocol=recipe["protocol"]), of_behavior(cells)
    in_words = None if answers is None else answers.effects
    report = Report(
        folder=folder,
        manifest=manifest,
        cells=_in_plan_order(cell_table(items, cells, **settings), cells),
        stacking=_in_plan_order(stacking_table(items, behavior, in_words=in_words, **settings), cells),
        items=mean_over_fits(items, cells),
        shifts=shift_table(items, cells, **settings),
        reliability=reliability_table(items, behavior, **settings),
        item_reliability=item_reliability(items, behavior),
        fits=_in_plan_order(fit_levels(items, behavior), cells),
        vectors=vector_lines(manifest),
        answers=answers,
        metrics=metrics,
    )
    return replace(report, notices=tuple(notices(report, done=store.done)))


def _answers(folder: Path, manifest: dict[str, Any], store: RowStore, every: pd.DataFrame) -> Answers | None:
    """The answers in words; None where none were planned."""
    from caa_bench.report.answers import EVALUATOR, find_answers

    own, recipe = every[every["evaluator"] == EVALUATOR], manifest["recipe"]
    if own.empty:
        return None
    how = {"facts": manifest["facts"], "seed": recipe["seed"], "draws": recipe["draws"]}
    found = find_answers(folder, store.answers(), own, **how)
    return replace(found, cells=_in_plan_order(found.cells, every))


def _metrics(store: RowStore, every: pd.DataFrame, *, seed: int, draws: int) -> pd.DataFrame | None:
    """Metrics of their own (metrics.csv); None without a row of any."""
    from caa_bench.analysis.metrics import metric_table

    rows = store.metrics()
    seen = every.index.isin({row["cell"] for row in rows})
    own = every[every["evaluator"].isin(every.loc[seen, "evaluator"])]
    if own.empty:
        return None
    found = metric_table(rows, own, seed=seed, draws=draws)
    return _in_plan_order(found, every, first=["evaluator", "task", "metric"])


def tables(report: Report) -> dict[str, pd.DataFrame]:
    """What is written as CSV, by name; answers in words have lines and columns of their own, where there are any."""
    import pandas as pd

    tables = {name: getattr(report, name) for name in ("cells", "stacking", "shifts", "reliability")}
    if report.answers is not None:
        tables["cells"] = pd.concat([report.cells, report.answers.cells], ignore_index=True)
        tables["judges"] = report.answers.judges
    for name in ("fits", "vectors", "metrics", "matched", "equal_loss"):
        table = getattr(report, name)
        if table is not None and len(table):
            tables[name] = table
    return tables


def _in_plan_order(table: pd.DataFrame, cells: pd.DataFrame, *, first: Sequence[str] = ("evaluator",)) -> pd.DataFrame:
    """The table's lines by `first`, then with bases and vectors as the recipe has them, the plain model first."""
    places = {column: {name: i for i, name in enumerate(cells[column].unique())} for column in ("base", "vector")}
    return table.sort_values(
        [*first, "base", "vector"],
        key=lambda values: values.map(places[values.name]) if values.name in places else values,
        kind="stable",
        ignore_index=True,
    )


def to_csv(table: pd.DataFrame) -> str:
    """CSV text: missing is empty, 9 significant digits, and no cell that a spreadsheet would run as a formula."""
    return str(table.map(csv_cell).to_csv(index=False, float_format="%.9g", lineterminator="\n"))
