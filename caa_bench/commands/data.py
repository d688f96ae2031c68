"""`data`: bring the published data into the user's cache."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command


class Data(Command):
    """Every file is checked against its sum."""

    name = "data"
    help = "the published splits, MMLU, TruthfulQA and the paper's system prompts"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds what is downloaded, and from where."""
        parser.add_argument("action", choices=["download"], help="fetch them into the user's cache, every file checked")
        parser.add_argument(
            "--behavior", nargs="+", metavar="NAME", help="these alone, also mmlu and truthfulqa (default: all)"
        )
        parser.add_argument("--from", dest="source", metavar="DIR", help="take them from this folder, not the network")

    def run(self, options: Namespace) -> int:
        """Say what came and where it is."""
        from caa_bench.behaviors.download import download

        source = None if options.source is None else Path(options.source)
        done = download(behaviors=options.behavior, source=source, say=print)
        for note in done.notes:
            print(note)
        print(f"{done.files} files are in {done.folder}, {done.new} of them new")
        return 0
