"""What the command line offers. The folder scan IS the registry: a new file is a new command."""

from __future__ import annotations

from functools import cache

from caa_bench.commands.base import Command
from caa_bench.storage.registry import import_modules

__all__ = ["Command", "registry"]


@cache
def registry() -> dict[str, Command]:
    """Every command in this folder by its `name`; nothing heavy is imported."""
    import_modules(__name__)
    found = {cls.name: cls() for cls in _below(Command) if cls.name}
    return dict(sorted(found.items()))


def _below(cls: type[Command]) -> list[type[Command]]:
    return [one for child in cls.__subclasses__() for one in (child, *_below(child))]
