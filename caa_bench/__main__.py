"""The command line: `caa-bench COMMAND ...`. What each command does is a file in `commands/`; no heavy imports here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from caa_bench.commands import registry
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
        allow_abbrev=False,
        description="Compare CAA steering vectors, system prompts and LoRA finetuning, and how they stack.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in registry().items():
        command.add_options(commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False))
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user's cost one line each and exit 2."""
    options = parser().parse_args(argv)
    try:
        return registry()[options.command].run(options)
    except UserError as error:
        for line in error.lines:
            print(f"caa-bench: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncaa-bench: stopped; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
