"""How a report shows itself in Python: a line for `repr`, the tables in a notebook. Every text of it is escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report


def shown_briefly(report: Report) -> str:
    """The folder, what was measured and how it stands."""
    behavior = terminal_safe(str(report.manifest["facts"]["behavior"]["id"]))
    return (
        f"Report({behavior!r}: {len(report.cells)} cells, {len(report.stacking)} stacked; status "
        f"{report.manifest['status']}; {report.folder}; .text() shows the tables, .cells and .stacking are DataFrames)"
    )


def shown_in_a_notebook(report: Report) -> str:
    """The tables as preformatted text, as a terminal shows them."""
    return f"<pre>{html.escape(report.text())}</pre>"
