"""What the command line offers: arguments go in, an exit status comes out. A new file here is a new command."""

from __future__ import annotations

from caa_bench.commands.base import Command
from caa_bench.storage.registry import Registry

__all__ = ["Command", "registry"]

_classes: Registry[Command] = Registry(Command, kind="commands", package=__name__, light=True)


def registry() -> dict[str, Command]:
    """Every command by its `name`; nothing heavy is imported."""
    return {name: cls() for name, cls in _classes().items()}
