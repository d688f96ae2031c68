"""`report`: the tables, figures and page of a run again, from its rows."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, newest_run


class ReportCommand(Command):
    """Needs no model."""

    name = "report"
    help = "rebuild the tables of a run from its rows; needs no model"

    def add_options(self, parser: ArgumentParser) -> None:
        """The run."""
        parser.add_argument("folder", nargs="?", help="the run folder (default: the newest under runs/)")
        parser.add_argument(
            "--published", action="store_true", help="beside the paper's numbers, for a run with the paper's settings"
        )

    def run(self, options: Namespace) -> int:
        """Write them, print the table."""
        from caa_bench.report import write_report

        folder = Path(options.folder) if options.folder else newest_run()
        report = write_report(folder)
        if options.published:
            from caa_bench.report.published import published_text

            print(published_text(report))
        else:
            print(report.text())
        print(f"\nwritten to {folder}")
        return 0
