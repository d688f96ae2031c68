"""How often a test split was opened with one model, over all runs of an output folder: a line an opening.

A run folder counts its own openings alone; whoever tries ten recipes on one test split has opened it ten times.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from caa_bench.storage.atomic import unwritable

FILE = "test_openings.jsonl"


def opening(output: Path, *, split: str, plan: str, run: str) -> int:
    """Which opening of a test split with a model this is, from 1; written down where it is a new one.

    The same plan again, resumed or in another folder, looks at nothing new and keeps its number.

    Args:
        output: the folder that holds the runs.
        split: content key of the model and the split's items.
        plan: content key of what is measured on them.
        run: the run's name, for whoever reads the file.

    Raises:
        UserError: the folder cannot be written.
    """
    path = output / FILE
    known = _plans(path, split)
    if plan not in known:
        line = json.dumps({"split": split, "plan": plan, "run": run}) + "\n"
        try:
            output.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:  # one short write: runs side by side do not mix their lines
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(path, error) from error
        known = _plans(path, split)
    return known.index(plan) + 1


def _plans(path: Path, split: str) -> list[str]:
    """The plans that opened the split, in their order; a line cut off by a kill is none."""
    if not path.is_file():
        return []
    found: dict[str, None] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and one.get("split") == split:
            found.setdefault(str(one.get("plan")))
    return list(found)
