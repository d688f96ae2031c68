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

    def run(self, options: Namespace) -> int:
        """Write them, print the table."""
        from caa_bench.report import write_report

        folder = Path(options.folder) if options.folder else newest_run()
        print(write_report(folder).text())
        print(f"\nwritten to {folder}")
        return 0
