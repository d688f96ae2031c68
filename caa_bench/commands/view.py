"""`view`: a run's page in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, newest_run, run_folders, run_named
from caa_bench.errors import UserError

PAGE = "report.html"


class View(Command):
    """Opens report.html; where there is no display its path is all there is to say."""

    name = "view"
    help = "open the page of a run in the browser, or print its path where there is no display"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run."""
        parser.add_argument("folder", nargs="?", metavar="RUN", help="a run (default: the newest under runs/)")

    def run(self, options: Namespace) -> int:
        """Print the path, and open the page where somebody can see it."""
        folder = run_named(options.folder) if options.folder else _newest_shown()
        page = folder / PAGE
        if not page.is_file():
            raise UserError(f"{page}: the run has no page yet; write it with caa-bench report {folder}")
        print(page)
        if has_display():
            webbrowser.open(page.resolve().as_uri())
        return 0


def _newest_shown() -> Path:
    """The newest run that has a page, or without any the newest one; says so where a newer one has none yet.

    Raises:
        UserError: there is no run.
    """
    newest = newest_run()
    shown = next((folder for folder in reversed(run_folders(newest.parents[1])) if (folder / PAGE).is_file()), newest)
    if shown != newest:
        print(f"caa-bench: {newest} is newer and has no page: it is being measured, or was stopped", file=sys.stderr)
    return shown


def has_display() -> bool:
    """Whether a browser's window could be seen."""
    shown = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and not os.environ.get("SSH_CONNECTION")
