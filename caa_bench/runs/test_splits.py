"""How often a test split was opened with one model, over all runs of an output folder: a line an opening.

A run folder counts its own openings alone; whoever tries ten recipes on one test split has opened it ten times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    known = _plans(path, split, run)
    if plan not in known:
        _append(path, {"split": split, "plan": plan, "run": run})
        known = _plans(path, split, run)
    return known.index(plan) + 1


def reserve(output: Path, runs: Sequence[str]) -> None:
    """Give runs that are about to open one split side by side their numbers in this order, whoever is first.

    Args:
        output: the folder that holds the runs.
        runs: names of their folders, all on the same model and behavior.

    Raises:
        UserError: the folder cannot be written.
    """
    path = output / FILE
    lines = _entries(path)
    settled = {line.get("run") for line in lines} | {run for line in lines for run in line.get("reserved", ())}
    if new := [run for run in runs if run not in settled]:
        _append(path, {"reserved": new})


def _append(path: Path, line: dict[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:  # one short write: runs side by side do not mix their lines
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def _plans(path: Path, split: str, run: str) -> list[str]:
    """The plans that opened the split, in their order; a place reserved for a run holds its name until it opens.

    Reserved places count where one of their runs is `run` or has opened this split.
    """
    lines = _entries(path)
    openers = {line.get("run") for line in lines if line.get("split") == split} | {run}
    found: list[str] = []
    for line in lines:
        if openers & set(line.get("reserved", ())):
            found += [f"run {name}" for name in line["reserved"]]
        elif line.get("split") == split and line.get("plan") not in found:
            plan, place = str(line.get("plan")), f"run {line.get('run')}"
            if place in found:
                found[found.index(place)] = plan
            else:
                found.append(plan)
    return found


def _entries(path: Path) -> list[dict[str, Any]]:
    """The file's lines; one cut off by a kill is none."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict):
            found.append(one)
    return found
