"""A run folder goes in; tables, figures, LaTeX and report.html come out. It needs no model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from caa_bench.report.exports import bibtex, methods_latex, stacking_latex
from caa_bench.report.model import Report, make_report, plain_strings
from caa_bench.report.page import recipe_yaml, render_page
from caa_bench.report.sections import files as tables
from caa_bench.report.sections import sections
from caa_bench.storage.drawing import save_drawings, to_csv
from caa_bench.storage.files import write_atomic

__all__ = ["Report", "make_report", "tables", "to_csv", "write_report"]


def write_report(folder: Path) -> Report:
    """Compute everything that a run shows from its rows and write it beside them.

    Tables (`*.csv`, `table.txt`), `recipe.yaml`, `report.html`, and `figures/` (SVG, PNG, CSV, LaTeX, BibTeX). The same
    rows give the same bytes, but for the fit seconds in report.html, which are marked `data-timing`.

    Raises:
        UserError: no run folder, one that is damaged, or a full disk.
    """
    with plain_strings():
        report = make_report(folder)
        for name, table in tables(report).items():
            write_atomic(folder / f"{name}.csv", to_csv(table))
        write_atomic(folder / "table.txt", report.text(detail=True, timings=False) + "\n")
        write_atomic(folder / "recipe.yaml", recipe_yaml(report))
        (folder / "figures").mkdir(exist_ok=True)
        write_atomic(folder / "figures" / "stacking.tex", stacking_latex(report))
        write_atomic(folder / "figures" / "methods.tex", methods_latex(report))
        write_atomic(folder / "figures" / "references.bib", bibtex(report.record))
        drawn = {
            section.name: save_drawings(partial(section.figures, report), folder / "figures") for section in sections()
        }
        write_atomic(folder / "report.html", render_page(report, drawn))
    return report
