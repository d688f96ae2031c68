"""What each command does; torch is imported only by those that need a model."""

from __future__ import annotations

import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.recipe import Recipe, load_recipe
from caa_bench.recipe_yaml import split_overrides


def compare(options: Namespace) -> int:
    """Measure and report one behavior, or all of them one after another."""
    from caa_bench.benchmark import Benchmark
    from caa_bench.progress import Progress
    from caa_bench.tracking import trackers

    recipes = _recipes(options)
    benchmarks = [
        Benchmark.from_recipe(
            recipe, callbacks=[Progress(), *trackers(recipe)], folder=_folder(options, recipe, recipes)
        )
        for recipe in recipes
    ]
    if options.dry_run:
        from caa_bench.dry_run import render

        print("\n\n".join(render(benchmark) for benchmark in benchmarks))
        return 0
    failed = False
    for benchmark in benchmarks:
        report = benchmark.compare().report()
        failed |= report.manifest["status"] == "error"
    return 1 if failed else 0


def fit(options: Namespace) -> int:
    """Fit the interventions and say where their artifacts are."""
    from caa_bench.benchmark import Benchmark
    from caa_bench.progress import Progress

    for recipe in _recipes(options):
        benchmark = Benchmark.from_recipe(recipe, callbacks=[Progress()])
        benchmark.fit()
        print(f"artifacts of {recipe.behavior} are in {benchmark.artifacts.folder}")
    return 0


def check(options: Namespace) -> int:
    """Check recipe, data and names without loading a model."""
    from caa_bench.benchmark import Benchmark

    for recipe in _recipes(options):
        benchmark = Benchmark.from_recipe(recipe)
        print(f"{recipe.name}: {recipe.behavior} on {recipe.model} is fine; results go to {benchmark.folder}")
    return 0


def report(options: Namespace) -> int:
    """Rebuild the tables of a run."""
    from caa_bench.report import write_report

    folder = Path(options.folder) if options.folder else _newest_run(Path("runs"))
    print(write_report(folder).text())
    print(f"\nwritten to {folder}")
    return 0


def show(options: Namespace) -> int:
    """What there is, by name."""
    from caa_bench import evaluators, interventions
    from caa_bench.behavior import behavior_names
    from caa_bench.model import model_names
    from caa_bench.paths import recipes_folder

    shown = {
        "behaviors": behavior_names(),
        "models": model_names(),
        "recipes": sorted(path.stem for path in recipes_folder().glob("*.yaml")),
        "interventions": [*interventions.registry()],
        "evaluators": [*evaluators.registry()],
        "runs": [str(path.parent) for path in _runs(Path(options.runs))],
    }
    for kind, names in shown.items():
        print(f"{kind}: {', '.join(names) or 'none yet'}")
    return 0


def export(options: Namespace) -> int:
    """Copy a run's artifacts (safetensors and JSON, with checksums) to a new folder."""
    from caa_bench.results import read_manifest

    folders = read_manifest(Path(options.folder))["facts"]["artifacts"]
    target = Path(options.target)
    if target.exists():
        raise UserError(f"{target}: exists already; give a new folder")
    for label, folder in folders.items():
        shutil.copytree(folder, target / label)
        print(f"{label}: {target / label}")
    return 0


def _recipes(options: Namespace) -> list[Recipe]:
    """The recipe, once a behavior where `behavior` is `all`; every mistake in any of them is found before work."""
    from caa_bench.behavior import behavior_names

    recipe = load_recipe(options.recipe, [*split_overrides(options.set), *options.overrides])
    names = behavior_names() if recipe.behavior == "all" else [recipe.behavior]
    return [replace(recipe, behavior=name) for name in names]


def _folder(options: Namespace, recipe: Recipe, recipes: list[Recipe]) -> Path | None:
    if not options.output:
        return None
    return Path(options.output) / Path(recipe.behavior).name if len(recipes) > 1 else Path(options.output)


def _runs(root: Path) -> list[Path]:
    """Manifests of finished and unfinished runs, the newest last."""
    return sorted(root.glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime)


def _newest_run(root: Path) -> Path:
    runs = _runs(root)
    if not runs:
        raise UserError(f"report: there is no run under {root}; run caa-bench compare first, or give a run folder")
    return runs[-1].parent


COMMANDS = {
    "compare": compare,
    "sweep": compare,
    "fit": fit,
    "check": check,
    "report": report,
    "list": show,
    "export": export,
}
