"""The command line: `caa-bench COMMAND ...`. What each command does is a file in `commands/`; no heavy imports here."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from caa_bench.commands import registry
from caa_bench.commands.terminal import painted
from caa_bench.commands.typed import command_of, normalized
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

EXAMPLES = """examples:
  caa-bench compare behavior=refusal
  caa-bench compare --recipe recipes/layer_sweep.yaml behavior=sycophancy caa.layers=[2,3,4]
  caa-bench compare behavior=refusal model=llama2-7b-chat --dry-run
  caa-bench report runs/compare/refusal-tiny-1a2b3c4d

`key=value` and `--key value` mean the same in every command.
"""
PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What is wrong with a place on the disk, and not with this program."""


class Parser(argparse.ArgumentParser):
    """argparse with mistakes of one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the options are listed; exit 2."""
        self.exit(2, f"caa-bench: {message}; see {self.prog} --help\n")


class Version(argparse.Action):
    """`--version`, read only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and leave."""
        from caa_bench import __version__

        print(f"caa-bench {__version__}")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user's cost one line each and exit 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        made = parser()
        if not words:
            made.print_help(sys.stderr)
            return 2
        if not words[0].startswith("-"):
            subparsers = next(one for one in made._actions if isinstance(one, argparse._SubParsersAction)).choices
            name = command_of(words, list(subparsers))
            words = [name, *normalized(words[1:], subparsers[name])]
        options = made.parse_args(words)
        return registry()[options.command].run(options)
    except UserError as error:
        return _refuse(*error.lines)
    except BrokenPipeError:  # `caa-bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in PLACES or error.filename is None:
            raise
        place = terminal_safe(os.fsdecode(error.filename))
        return _refuse(f"{place}: cannot be used ({error.strerror}); choose another place, or free space")
    except KeyboardInterrupt:
        print("\ncaa-bench: stopped; run the same command again to continue", file=sys.stderr)
        return 130


def _refuse(*lines: str) -> int:
    for line in lines:
        print(f"{painted('caa-bench:', 'red', stream=sys.stderr)} {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
