"""What each command does; torch is imported only by those that need a model."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.recipe import Recipe, load_recipe
from caa_bench.recipe_yaml import split_overrides

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


def compare(options: Namespace) -> int:
    """Measure and report one behavior, or all of them one after another."""
    benchmarks = _benchmarks(options)
    if options.dry_run:
        return _dry_run(benchmarks)
    _quiet()
    statuses = [benchmark.compare().report().manifest["status"] for benchmark in benchmarks]
    return 1 if "error" in statuses else 0


def fit(options: Namespace) -> int:
    """Fit the interventions and say where their artifacts are."""
    benchmarks = _benchmarks(options)
    if options.dry_run:
        return _dry_run(benchmarks)
    _quiet()
    for benchmark in benchmarks:
        benchmark.fit()
        print(f"artifacts of {benchmark.behavior.id} are in {benchmark.store.folder}")
    return 1 if any(benchmark.unfit for benchmark in benchmarks) else 0


def check(options: Namespace) -> int:
    """Check recipe, data and names without loading a model."""
    benchmarks = _benchmarks(options)
    if options.dry_run:
        return _dry_run(benchmarks)
    for benchmark in benchmarks:
        print(f"{benchmark.behavior.id} on {benchmark.chat.name} is fine; results go to {benchmark.folder}")
    return 0


def show_tokens(options: Namespace) -> int:
    """A training pair and a test item as the model reads them; loads the tokenizer alone."""
    from caa_bench.token_view import render

    _quiet()
    print("\n\n".join(render(benchmark) for benchmark in _benchmarks(options)))
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


def data(options: Namespace) -> int:
    """Bring the published data into the user's cache."""
    from caa_bench.data import download

    source = None if options.source is None else Path(options.source)
    done = download(behaviors=options.behavior, source=source, say=print)
    for note in done.notes:
        print(note)
    print(f"{done.files} files are in {done.folder}, {done.new} of them new")
    return 0


def export(options: Namespace) -> int:
    """Copy a run's artifacts (safetensors and JSON, every checksum checked) to a new folder."""
    from caa_bench.artifacts import kept_at
    from caa_bench.files import inside, read_artifact
    from caa_bench.results import read_manifest

    run, target = Path(options.folder), Path(options.target)
    if target.exists():
        raise UserError(f"{target}: exists already; give a new folder")
    found = {label: kept_at(run, path) for label, path in read_manifest(run)["facts"]["artifacts"].items()}
    for label, folder in found.items():
        read_artifact(folder, expect=None)
        shutil.copytree(folder, inside(target, label))
        print(f"{label}: {target / label}")
    return 0


def _benchmarks(options: Namespace) -> list[Benchmark]:
    """One a behavior, all on the same model; every mistake in any of them is found before work begins."""
    from caa_bench.benchmark import Benchmark
    from caa_bench.progress import Progress
    from caa_bench.tracking import trackers

    recipes = _recipes(options)
    made: list[Benchmark] = []
    for recipe in recipes:
        benchmark = Benchmark.from_recipe(
            recipe,
            chat=made[0].chat if made else None,
            callbacks=[Progress(), *trackers(recipe)],
            folder=_folder(options, recipe, several=len(recipes) > 1),
        )
        made.append(benchmark)
    return made


def _dry_run(benchmarks: Sequence[Benchmark]) -> int:
    from caa_bench.dry_run import render

    print("\n\n".join(render(benchmark) for benchmark in benchmarks))
    return 0


def _recipes(options: Namespace) -> list[Recipe]:
    """The recipe, once a behavior where `behavior` is `all`; every mistake in any of them is found before work."""
    from caa_bench.behavior import behavior_names, published_names

    recipe = load_recipe(options.recipe, [*split_overrides(options.set), *options.overrides])
    names = [recipe.behavior]
    if recipe.behavior == "all":
        names = behavior_names() if recipe.args.data == "own" else published_names(recipe.args.data_dir)
    return [replace(recipe, behavior=name) for name in names]


def _folder(options: Namespace, recipe: Recipe, *, several: bool) -> Path | None:
    if not options.output:
        return None
    return Path(options.output) / Path(recipe.behavior).name if several else Path(options.output)


def _quiet() -> None:
    """Keep the libraries' advice to their own callers out of what a run prints; errors still show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


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
    "show-tokens": show_tokens,
    "report": report,
    "list": show,
    "data": data,
    "export": export,
}
