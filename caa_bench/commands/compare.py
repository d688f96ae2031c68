"""`compare` and `sweep`: fit, measure, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Compare(RecipeCommand):
    """One behavior, or all of them one after another and side by side at the end."""

    name = "compare"
    help = "measure CAA on top of every base and print how they stack"

    def work(self, made: Sequence[Benchmark]) -> int:
        """Exit 1 if a batch or a fit failed."""
        from caa_bench.commands.terminal import columns
        from caa_bench.report.comparison import render_summary
        from caa_bench.report.text import columns_of

        reports = [benchmark.compare().report() for benchmark in made]
        if len(reports) > 1:
            with columns_of(columns()):
                print(f"\n{render_summary(reports)}\n")
            print("\n".join(f"open {report.folder / 'report.html'}" for report in reports))
        return 1 if any(report.record.status == "error" for report in reports) else 0


class Sweep(Compare):
    """The same with another recipe."""

    name = "sweep"
    help = "measure every layer on the selection split"
    recipe = "layer_sweep"
