"""`new behavior NAME`: what `behavior new NAME` does."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from caa_bench.commands.base import Command
from caa_bench.commands.behavior import add_new, write_new


class New(Command):
    """Begins what a user writes; loads no model."""

    name = "new"
    help = "begin a behavior of your own: `new behavior NAME`"

    def add_options(self, parser: ArgumentParser) -> None:
        """What is begun, and its name."""
        kinds = parser.add_subparsers(dest="kind", required=True, metavar="behavior")
        add_new(kinds.add_parser("behavior", help="write a skeleton to fill in", allow_abbrev=False))

    def run(self, options: Namespace) -> int:
        """Say what was written."""
        write_new(options)
        return 0
