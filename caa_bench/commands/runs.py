"""`runs`: the runs there are, a line each, from their manifests alone."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path
from typing import Any

from caa_bench.commands.base import Command, run_folders
from caa_bench.commands.terminal import table
from caa_bench.errors import UserError


class Runs(Command):
    """What was run, how it stands and when it last changed."""

    name = "runs"
    help = "the runs there are: behavior, model, recipe, how they stand"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds where they are looked for."""
        parser.add_argument("--runs", default="runs", metavar="DIR", help="where run folders are (%(default)s)")
        parser.add_argument("--json", action="store_true", help="a JSON list, an object a run")

    def run(self, options: Namespace) -> int:
        """Print them, the newest last."""
        found = [run_facts(folder) for folder in run_folders(Path(options.runs))]
        if options.json:
            print(json.dumps(found, indent=1, ensure_ascii=False))
        elif not found:
            print(f"there is no run under {options.runs} yet; begin with caa-bench compare behavior=refusal")
        else:
            heads = ("changed", "status", "cells", "folder")  # whose name says behavior and model
            print(table(heads, ([str(one[head]) for head in heads] for one in found)))
        return 0


def run_facts(folder: Path) -> dict[str, Any]:
    """What a run's manifest says of it; `damaged` is its status where that cannot be read."""
    from caa_bench.runs.folder import read_manifest

    path = folder / "manifest.json"
    changed = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    facts: dict[str, Any] = {"folder": str(folder), "changed": changed}
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        unknown = {"status": "damaged", "behavior": "", "model": "", "split": "", "cells": 0}
        return facts | unknown | {"problem": error.lines[0]}
    recipe = manifest["recipe"]
    return facts | {
        "status": manifest["status"],
        "behavior": Path(str(recipe.get("behavior", ""))).name,
        "model": Path(str(recipe.get("model", ""))).name,
        "split": recipe.get("split", ""),
        "cells": len(manifest["facts"].get("cells", [])),
    }


def run_line(folder: Path) -> str:
    """The same in a line."""
    one = run_facts(folder)
    if one["status"] == "damaged":
        return "damaged"
    return f"{one['behavior']} on {one['model']}, {one['split']} split, {one['cells']} cells, {one['status']}"
