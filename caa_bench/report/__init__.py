"""Rows -> cells.csv, stacking.csv and the printed tables. A pure function of a run folder; needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.files import csv_cell, write_atomic
from caa_bench.results import RowStore, read_manifest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run shows.

    Args:
        folder: the run folder.
        manifest: its manifest.
        cells: one line a cell (cells.csv).
        stacking: one line a base, vector, layer and multiplier (stacking.csv).
        items: one line a cell and item: what both tables are computed from.
    """

    folder: Path
    manifest: dict[str, Any]
    cells: pd.DataFrame
    stacking: pd.DataFrame
    items: pd.DataFrame

    def text(self) -> str:
        """The tables as printed."""
        from caa_bench.report.table import render

        return render(self)


def write_report(folder: Path) -> Report:
    """Compute every table of a run folder from its rows and write them beside the rows.

    Raises:
        UserError: no run folder, or one that is damaged.
    """
    report = make_report(folder)
    write_atomic(folder / "cells.csv", to_csv(report.cells))
    write_atomic(folder / "stacking.csv", to_csv(report.stacking))
    write_atomic(folder / "table.txt", report.text() + "\n")
    return report


def make_report(folder: Path) -> Report:
    """The tables of a run folder, computed but not written."""
    import pandas as pd

    from caa_bench.analysis.cells import cell_table
    from caa_bench.analysis.items import item_scores
    from caa_bench.analysis.stacking import stacking_table

    manifest = read_manifest(folder)
    facts, recipe = manifest["facts"], manifest["recipe"]
    cells = pd.DataFrame(facts["cells"]).rename(columns={"key": "cell"}).set_index("cell")
    items = item_scores(RowStore(folder / "rows.jsonl").frame(), protocol=recipe["protocol"])
    settings = {"seed": recipe["seed"], "draws": recipe["draws"]}
    return Report(
        folder=folder,
        manifest=manifest,
        cells=cell_table(items, cells, **settings),
        stacking=stacking_table(items, cells, **settings),
        items=items,
    )


def to_csv(table: pd.DataFrame) -> str:
    """CSV text: missing is empty, 9 significant digits, and no cell that a spreadsheet would run as a formula."""
    return str(table.map(csv_cell).to_csv(index=False, float_format="%.9g", lineterminator="\n"))
