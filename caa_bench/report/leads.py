"""Where a number of a report leads: to the items behind it in the page's viewer, or to the file that it comes from.

`#cell=KEY` shows the items of one condition, `#item=ID` one item, `#item=ID&cell=KEY` one item in one condition.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from caa_bench.analysis.frames import CONDITION
from caa_bench.evaluators import registry
from caa_bench.report.headline import MEASURE, Key, condition_of

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report.model import Report
    from caa_bench.report.sections import Column, Line, Table

FILES = (".csv", ".json", ".jsonl", ".yaml")


def to_cell(cell: str) -> str:
    """The items of a condition."""
    return f"#cell={quote(cell, safe='')}"


def metric_cell(line: Mapping[str, Any]) -> str:
    """What names a metric's lines of one cell: several tasks and metrics may share it."""
    return f"{line['cell']}|{line['task']}|{line['metric']}"


class Leads:
    """The links of one report's tables.

    Args:
        report: whose.

    Example:
        >>> leads.row(table, table.lines[0])  # doctest: +SKIP
        '#cell=90fbf13fb3efe22f'
    """

    def __init__(self, report: Report) -> None:
        self._viewer = len(report.items) > 0 or report.answers is not None
        self._doses = report.headline.doses
        self._cells: dict[tuple[str, Key], str] = {}
        self._conditions: dict[str, Key] = {}
        for line in _measured_lines(report):
            named = metric_cell(line) if "metric" in line else line["cell"]
            self._cells.setdefault((line["evaluator"], condition_of(line)), named)
            self._conditions.setdefault(line["cell"], condition_of(line))

    def row(self, table: Table, line: Line) -> str:
        """Where a line leads; "" where neither its items nor a file of its own is known."""
        file = table.source or (f"{table.file}.csv" if table.file else "")
        if not self._viewer:
            return file
        if "item" in line:
            return _to_item(line["item"], line.get("cell", ""))
        if "metric" in line and "task" in line:
            return to_cell(metric_cell(line))
        cell = self._cell_of(line)
        return to_cell(cell) if cell else file

    def number(self, table: Table, column: Column, line: Line) -> str:
        """Where a number leads that is not of its line's own items; "" where it is."""
        if column.behind.endswith(FILES) or not self._viewer:
            return column.behind if column.behind.endswith(FILES) else ""
        if column.behind in registry():
            cell = self._measured_by(column.behind, line)
            return to_cell(cell) if cell else ""
        own = line.get(column.behind or f"{column.name}_cell")
        if isinstance(own, str) and own:
            return to_cell(own)
        return _to_item(line["item"], column.name) if "item" in line and column.name in self._conditions else ""

    def _cell_of(self, line: Line) -> str:
        """The line's own cell, or that of its condition; of a dose curve that at the largest dose that leads."""
        cell = line.get("cell")
        if isinstance(cell, str) and cell in self._conditions:
            return self._of_evaluator(cell, line)
        if set(CONDITION) <= {"multiplier", *line}:
            dose = line.get("multiplier", self._doses[-1] if self._doses else 0.0)
            return self._cells.get((MEASURE, condition_of({**line, "multiplier": dose})), "")
        return ""

    def _of_evaluator(self, cell: str, line: Line) -> str:
        """As the viewer names it: a metric's cell has its metric beside it."""
        return self._cells.get((str(line.get("evaluator", "")), self._conditions[cell]), cell)

    def _measured_by(self, evaluator: str, line: Line) -> str:
        """The cell in which another evaluator measured the line's condition; "" where it did not."""
        condition = self._conditions.get(str(line.get("cell", "")))
        if condition is None and set(CONDITION) <= set(line):
            condition = condition_of(line)
        return "" if condition is None else self._cells.get((evaluator, condition), "")


def page_of(report: Report, *, beside: Path) -> str:
    """A link to a run's own page from one in the folder `beside`."""
    return quote(Path(os.path.relpath(report.folder / "report.html", beside)).as_posix())


class RunLeads:
    """The links of tables over several runs: into the pages of the runs.

    Args:
        names: the runs by the name that stands in a line's column `run`.
        beside: the folder of the page with the tables.
    """

    def __init__(self, names: Mapping[str, Report], *, beside: Path) -> None:
        self._pages = {name: page_of(report, beside=beside) for name, report in names.items()}

    def row(self, table: Table, line: Line) -> str:
        """The run's page, at the line's items where it has some."""
        cell = line.get("cell")
        return self._pages[line["run"]] + (to_cell(cell) if isinstance(cell, str) else "")

    def number(self, table: Table, column: Column, line: Line) -> str:
        """The run's page at the items of the column's own cell; "" where it has none."""
        cell = line.get(f"{column.name}_cell")
        return self._pages[line["run"]] + to_cell(cell) if isinstance(cell, str) and cell else ""


def _to_item(item: str, cell: str) -> str:
    return f"#item={quote(item, safe='')}" + (f"&cell={quote(cell, safe='')}" if cell else "")


def _measured_lines(report: Report) -> Iterator[dict[str, Any]]:
    """Every measured condition of every evaluator, with its cell."""
    tables: list[pd.DataFrame] = [report.cells, report.metrics]
    tables += [] if report.answers is None else [report.answers.cells]
    for table in tables:
        yield from table.to_dict("records")
