"""`list`: what there is, by name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, run_folders


class ListNames(Command):
    """Names that recipes and the command line take."""

    name = "list"
    help = "what there is: behaviors, models, recipes, interventions, evaluators, judges"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the folder in which runs are looked for."""
        parser.add_argument("--runs", default="runs", help="where run folders are (%(default)s)")

    def run(self, options: Namespace) -> int:
        """Print a line for each kind: behaviors, models, recipes, interventions, evaluators, judges, runs."""
        from caa_bench import evaluators, interventions, judges
        from caa_bench.behaviors.behavior import behavior_names
        from caa_bench.models.model import model_names
        from caa_bench.storage.paths import recipes_folder

        shown = {
            "behaviors": behavior_names(),
            "models": model_names(),
            "recipes": sorted(path.stem for path in recipes_folder().glob("*.yaml")),
            "interventions": [*interventions.registry()],
            "evaluators": [*evaluators.registry()],
            "judges": [*judges.registry()],
            "runs": [str(folder) for folder in run_folders(Path(options.runs))],
        }
        for kind, names in shown.items():
            print(f"{kind}: {', '.join(names) or 'none yet'}")
        return 0
