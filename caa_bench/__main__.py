"""The command line: `caa-bench COMMAND ...`. What each command does is a file in `commands/`; no heavy imports here."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from caa_bench.commands import registry
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.terminal import painted
from caa_bench.commands.typed import command_of, normalized
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What is wrong with a place on the disk, and not with this program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user's cost one line each and exit 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        made = parser()
        if not words:
            made.print_help(sys.stderr)
            return 2
        if not words[0].startswith("-"):
            commands = commands_of(made)
            name = command_of(words, list(commands))
            words = [name, *normalized(words[1:], commands[name])]
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
