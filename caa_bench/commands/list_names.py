"""`list`: what there is, by name, with a line about each."""

from __future__ import annotations

import inspect
import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path

from caa_bench.commands.base import Command, run_folders
from caa_bench.commands.runs import run_line
from caa_bench.commands.terminal import names_text, painted
from caa_bench.errors import UserError

HEADS = {
    "behaviors": "behavior=NAME",
    "models": "model=NAME",
    "recipes": "--recipe NAME",
    "interventions": "bases=[...] vectors=[...]",
    "evaluators": "evaluators=[...]",
    "judges": "open_ended.judges=[...]",
    "runs": "caa-bench view RUN",
}
"""How a name of each kind is used."""


class ListNames(Command):
    """Names that recipes and the command line take."""

    name = "list"
    help = "what there is: behaviors, models, recipes, interventions, evaluators, judges, runs"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds which kinds, and the folder in which runs are looked for."""
        parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"which of {', '.join(HEADS)} (default: all)")
        parser.add_argument("--runs", default="runs", help="where run folders are (%(default)s)")
        parser.add_argument("--json", action="store_true", help="one JSON object: kind -> name -> description")

    def run(self, options: Namespace) -> int:
        """Print a heading a kind and a line a name."""
        if unknown := [kind for kind in options.kinds if kind not in HEADS]:
            raise UserError(f"list: there is no kind {unknown[0]!r}; use {', '.join(HEADS)}")
        every = found(Path(options.runs))
        chosen = {kind: every[kind] for kind in options.kinds or HEADS}
        if options.json:
            print(json.dumps(chosen, indent=1, ensure_ascii=False))
            return 0
        blocks = [
            f"{painted(f'{kind}:', 'bold')} {HEADS[kind]}\n{names_text(names) if names else '  none yet'}"
            for kind, names in chosen.items()
        ]
        print("\n\n".join(blocks))
        return 0


def found(runs: Path) -> dict[str, dict[str, str]]:
    """Kind -> name -> what it is, one line."""
    from caa_bench import evaluators, interventions, judges
    from caa_bench.behaviors.behavior import behavior_names
    from caa_bench.behaviors.folders import folders_in
    from caa_bench.models.model import model_configs
    from caa_bench.storage.paths import configs_folder, recipes_folder

    behaviors = configs_folder() / "behaviors"
    return {
        "behaviors": {name: _matching(behaviors / name) for name in behavior_names()}
        | {f"./{folder}": _matching(folder) or "its behavior.yaml is not finished" for folder in folders_in(Path())},
        "models": {name: _comment(path) for name, path in sorted(model_configs().items())},
        "recipes": {path.stem: _comment(path) for path in sorted(recipes_folder().glob("*.yaml"))},
        "interventions": _documented(interventions.registry()),
        "evaluators": _documented(evaluators.registry()),
        "judges": _documented(judges.registry()),
        "runs": {str(folder): run_line(folder) for folder in run_folders(runs)},
    }


def _documented(classes: Mapping[str, type]) -> dict[str, str]:
    return {name: (inspect.getdoc(cls) or "").partition("\n")[0] for name, cls in classes.items()}


def _comment(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    text = " ".join(_leading(lines)).strip()
    sentence = re.match(r".*?[\w)\]]\.(?=\s|$)", text)
    return sentence[0] if sentence else text


def _leading(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if not line.startswith("# "):
            return
        yield line[2:].strip()


def _matching(folder: Path) -> str:
    """What "matching" means for a behavior."""
    from caa_bench.behaviors.card import read_card

    try:
        return read_card(folder / "behavior.yaml").matching
    except UserError:
        return ""  # whatever is wrong with it, `check` says so
