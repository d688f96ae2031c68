"""`report`: the tables, figures and page of a run again, from its rows."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, add_loudness, newest_run, run_named
from caa_bench.commands.terminal import columns
from caa_bench.errors import UserError


class ReportCommand(Command):
    """Rebuilds tables and pages of finished runs; loads no model."""

    name = "report"
    help = "rebuild the tables of a run from its rows; needs no model"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run folders, and where the page of several goes."""
        parser.add_argument("folders", nargs="*", metavar="RUN", help="run folders (default: the newest under runs/)")
        parser.add_argument("--page", metavar="FILE", help="where the page of several runs goes (./comparison.html)")
        parser.add_argument(
            "--published", action="store_true", help="beside the paper's numbers, for a run with the paper's settings"
        )
        add_loudness(parser)

    def run(self, options: Namespace) -> int:
        """Write them, print the tables; several runs get one page too."""
        from caa_bench.report import make_report, write_report
        from caa_bench.report.text import columns_of
        from caa_bench.tracking.progress import Tables

        folders = [run_named(folder) for folder in options.folders] or [newest_run()]
        if options.page and len(folders) < 2:
            raise UserError("--page: is for several runs; give more than one run folder")
        if options.published:
            from caa_bench.report.published import published_text

            print("\n\n".join(published_text(make_report(folder)) for folder in folders))
            return 0
        reports = [write_report(folder) for folder in folders]
        if len(reports) == 1:
            shown = Tables(quiet=options.quiet, verbose=options.verbose, terminal=columns())
            shown.on_report(report=reports[0])
            return 0
        from caa_bench.report.comparison import render_summary, write_comparison

        page = Path(options.page or "comparison.html")
        write_comparison(reports, page)
        with columns_of(columns()):
            print(f"{render_summary(reports)}\n\nopen {page}")
        return 0
