"""`view`: a run's page in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from argparse import ArgumentParser, Namespace

from caa_bench.commands.base import Command, newest_run, run_named
from caa_bench.errors import UserError


class View(Command):
    """Opens report.html; where there is no display its path is all there is to say."""

    name = "view"
    help = "open the page of a run in the browser, or print its path where there is no display"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run."""
        parser.add_argument("folder", nargs="?", metavar="RUN", help="a run (default: the newest under runs/)")

    def run(self, options: Namespace) -> int:
        """Print the path, and open the page where somebody can see it."""
        folder = run_named(options.folder) if options.folder else newest_run()
        page = folder / "report.html"
        if not page.is_file():
            raise UserError(f"{page}: the run has no page yet; write it with caa-bench report {folder}")
        print(page)
        if has_display():
            webbrowser.open(page.resolve().as_uri())
        return 0


def has_display() -> bool:
    """Whether a browser's window could be seen."""
    shown = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return shown and not os.environ.get("SSH_CONNECTION")
