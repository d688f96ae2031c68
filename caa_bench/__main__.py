"""The commands: `caa-bench compare|sweep|fit|check|show-tokens|report|list|data|export ...`; no heavy imports here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from caa_bench.errors import UserError

EXAMPLES = """examples:
  caa-bench compare behavior=refusal
  caa-bench compare --recipe recipes/layer_sweep.yaml behavior=sycophancy caa.layers=[2,3,4]
  caa-bench compare behavior=refusal model=llama2-7b-chat --dry-run
  caa-bench report runs/compare/refusal-tiny-1a2b3c4d
"""


class Parser(argparse.ArgumentParser):
    """argparse with mistakes of one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the options are listed; exit 2."""
        self.exit(2, f"caa-bench: {message}; see {self.prog} --help\n")


def parser() -> Parser:
    """Every command with its help."""
    main = Parser(
        prog="caa-bench",
        description="Compare CAA steering vectors, system prompts and LoRA finetuning, and how they stack.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, recipe in (
        ("compare", "measure CAA on top of every base and print how they stack", "compare"),
        ("sweep", "measure every layer on the selection split", "layer_sweep"),
        ("fit", "fit the interventions and keep their artifacts", "compare"),
        ("check", "check a recipe without loading the model", "compare"),
        ("show-tokens", "what the model reads, token by token, with the steered tokens marked", "compare"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--recipe", default=recipe, help="a YAML file, or the name of a shipped one (%(default)s)")
        command.add_argument(
            "--output", help="the run folder (default: a new one under output_dir; a same run continues)"
        )
        command.add_argument(
            "--set", default="", metavar="TEXT", help='several KEY=VALUE in one text: "seed=1 limit=50"'
        )
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a recipe key, e.g. seed=1")
        command.add_argument("--dry-run", action="store_true", help="list the cells and what they cost, run nothing")
    report = commands.add_parser("report", help="rebuild the tables of a run from its rows; needs no model")
    report.add_argument("folder", nargs="?", help="the run folder (default: the newest under runs/)")
    listing = commands.add_parser("list", help="what there is: behaviors, models, recipes, interventions, evaluators")
    listing.add_argument("--runs", default="runs", help="where run folders are (%(default)s)")
    data = commands.add_parser("data", help="the published splits, MMLU, TruthfulQA and the paper's system prompts")
    data.add_argument("action", choices=["download"], help="fetch them into the user's cache, every file checked")
    data.add_argument(
        "--behavior", nargs="+", metavar="NAME", help="these alone, also mmlu and truthfulqa (default: all)"
    )
    data.add_argument("--from", dest="source", metavar="DIR", help="take them from this folder, not from the network")
    export = commands.add_parser("export", help="copy a run's fitted artifacts to a folder of their own")
    export.add_argument("folder", help="the run folder")
    export.add_argument("target", help="a new folder")
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user's cost one line each and exit 2."""
    options = parser().parse_args(argv)
    try:
        from caa_bench import commands

        return commands.COMMANDS[options.command](options)
    except UserError as error:
        for line in error.lines:
            print(f"caa-bench: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncaa-bench: stopped; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
