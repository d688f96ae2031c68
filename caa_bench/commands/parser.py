"""Every command with its options, as argparse reads them."""

from __future__ import annotations

import argparse
from typing import NoReturn

from caa_bench.commands import registry

EXAMPLES = """examples:
  caa-bench compare behavior=refusal
  caa-bench compare --recipe recipes/layer_sweep.yaml behavior=sycophancy caa.layers=[2,3,4]
  caa-bench compare behavior=refusal model=llama2-7b-chat --dry-run
  caa-bench report runs/compare/refusal-tiny-1a2b3c4d

`key=value` and `--key value` mean the same in every command.
"""


class Parser(argparse.ArgumentParser):
    """argparse with mistakes of one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the options are listed; exit 2."""
        self.exit(2, f"caa-bench: {message}; see {self.prog} --help\n")


class Version(argparse.Action):
    """`--version`, read only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and leave."""
        from importlib.metadata import version

        print(f"caa-bench {version('caa-bench')}")
        parser.exit()


def parser() -> Parser:
    """Every command with its help."""
    main = Parser(
        prog="caa-bench",
        allow_abbrev=False,
        description="Compare CAA steering vectors, system prompts and LoRA finetuning, and how they stack.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--version", action=Version, nargs=0, help="the installed version")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in registry().items():
        command.add_options(commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False))
    return main


def commands_of(main: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command by its name."""
    return dict(next(one for one in main._actions if isinstance(one, argparse._SubParsersAction)).choices)
