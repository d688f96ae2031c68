"""Files of the user's own that a recipe names: `plugins: [my_method.py]`. Running them is all that is done with them.

A file is taken only from the path that was written, and what a run keeps of it is `my_method.py#<key of its content>`:
the same recipe with an edited file is another run, and a recipe that says the key refuses an edited file.
"""

from __future__ import annotations

import os
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.storage.files import sha256_file
from caa_bench.storage.registry import import_file

_DIGITS = 16


def load_plugin(entry: str, *, beside: Path = Path()) -> str:
    """Run the file; returns how the recipe of a run names it.

    Args:
        entry: a path, where wanted with `#` and the key of its content; relative to `beside` or the working folder.
        beside: the recipe's folder.

    Raises:
        UserError: there is no such file, it was edited since, or running it fails.
    """
    named, _, key = entry.partition("#")
    path = next((one for one in (beside / named, Path(named)) if one.is_file()), None)
    if path is None or path.suffix != ".py":
        raise UserError(f"plugins: there is no Python file {named!r}; give the path of a .py file of your own")
    kept = plugin_name(path)
    if key and key != kept.partition("#")[2]:
        raise UserError(f"plugins: {named} is not the file that the recipe names by #{key}; take #{key} out to use it")
    import_file(path)
    return kept


def plugin_name(path: Path) -> str:
    """`<path>#<key of its content>`, the path from the working folder where it is inside of that."""
    full, here = path.resolve(), Path.cwd().resolve()
    shown = os.path.relpath(full, here) if full.is_relative_to(here) else str(full)
    return f"{shown}#{sha256_file(full)[:_DIGITS]}"
