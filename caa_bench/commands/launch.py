"""`launch`: a matrix of models, behaviors and seeds as jobs on this machine's GPUs or on SLURM, through submitit.

caa-bench launch model=[tiny,my-model] behavior=all seed=[0,1,2] --workers 2
caa-bench launch model=[a,b] behavior=all seed=[0,1] --slurm partition=gpu,gpus=1,time=4:00:00
caa-bench launch status runs/launches/1a2b3c4d
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.commands.base import Command, add_set, all_behaviors, overrides_of
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.jobs_matrix import Launch


class LaunchCommand(Command):
    """Each job IS the compare command: stopped, preempted or killed, the same launch continues it."""

    name = "launch"
    help = "run a matrix of models, behaviors and seeds as jobs, here or on SLURM"

    def add_options(self, parser: ArgumentParser) -> None:
        """The recipe, the axes among its keys, and where jobs run."""
        parser.add_argument("--recipe", default="compare", help="a YAML file, or the name of a shipped one")
        add_set(parser)
        parser.add_argument(
            "words",
            nargs="*",
            metavar="KEY=VALUE",
            help="recipe keys; model, behavior and seed may be lists. Or: status FOLDER",
        )
        parser.add_argument("--workers", type=int, help="jobs at once on this machine (one a GPU; without GPUs: 1)")
        parser.add_argument("--gpus", type=int, help="GPUs of this machine, one a job (all; 0: the CPU)")
        parser.add_argument(
            "--slurm", metavar="KEY=VALUE,...", help="partition, gpus, cpus, mem_gb, time; any other option of sbatch"
        )
        parser.add_argument("--dry-run", action="store_true", help="list the jobs and what each costs, run nothing")

    def run(self, options: Namespace) -> int:
        """Check every job; then list, submit or look at them."""
        from caa_bench.commands.launch_local import here, places
        from caa_bench.commands.launch_slurm import need_submitit, on_slurm, slurm_parameters
        from caa_bench.commands.launch_status import dry_run, reserve_openings, status

        if options.words[:1] == ["status"]:
            return status(options.words[1:])
        if options.slurm is not None and (options.workers is not None or options.gpus is not None):
            raise UserError("--slurm: --workers and --gpus are for this machine; write --slurm gpus=1,... instead")
        slurm = None if options.slurm is None else slurm_parameters(options.slurm)
        where = None if slurm is not None or options.dry_run else places(options.workers, options.gpus)
        if not options.dry_run:
            need_submitit(slurm=slurm is not None)
        axes, rest = axes_of([*overrides_of(options), *options.words])
        prepared = prepare(axes, recipe=options.recipe, overrides=rest)
        launch = prepared.launch
        if options.dry_run:
            return dry_run(prepared)
        launch.save()
        reserve_openings(prepared)
        print(f"{len(launch.jobs)} jobs; how they stand: caa-bench launch status {launch.folder}", flush=True)
        return here(launch, where or []) if slurm is None else on_slurm(launch, slurm)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A launch whose every job is checked.

    Args:
        launch: the jobs.
        benchmarks: what each of them would run, in the same order.
    """

    launch: Launch
    benchmarks: tuple[Benchmark, ...]


def axes_of(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The axes' values, and every other override as it was given.

    Raises:
        UserError: an axis that is empty, given twice, or names something twice; a word that is no `key=value`.
    """
    from caa_bench.config.yaml_lines import parse
    from caa_bench.runs.jobs_matrix import AXES

    axes: dict[str, list[str]] = {}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"override: {word!r} is not key=value; write model=[a,b] seed=[0,1]")
        key = "seed" if key == "seeds" else key
        if key not in AXES:
            rest.append(word)
            continue
        read = parse(value, source=f"override: {key}", numbered=False).root.value
        found = [str(node.value) for node in read] if isinstance(read, list) else [str(read)]
        if not found or len(set(found)) < len(found):
            raise UserError(f"override: {key}: {value!r} is an empty list, or names something twice; name each once")
        if key in axes:
            raise UserError(f"override: {key}: given twice; give one list")
        axes[key] = found
    return axes, rest


def prepare(axes: Mapping[str, Sequence[str]], *, recipe: str, overrides: Sequence[str]) -> Prepared:
    """Every job, checked as `check` does it: a mistake in one of them costs one line before any of them runs.

    Raises:
        UserError: one line a mistake.
    """
    from caa_bench.benchmark import Benchmark
    from caa_bench.recipe import load_recipe
    from caa_bench.runs.jobs_matrix import AXES, Launch, cells, job_names, launch_key, make_job

    plain = load_recipe(recipe, overrides)
    matrix: list[dict[str, str]] = []
    for model in axes.get("model", [plain.model]):
        behaviors = list(axes.get("behavior", [plain.behavior]))
        if behaviors == ["all"]:  # which these are may depend on the model: the embedded one has its own splits
            behaviors = all_behaviors(replace(plain, model=model))
        seeds = list(axes.get("seed", [str(plain.args.seed)]))
        matrix += cells({"model": [model], "behavior": behaviors, "seed": seeds})
    folder = Path(plain.args.output_dir) / "launches" / launch_key(matrix, recipe=recipe, overrides=overrides)
    made, jobs = [], []
    chats: dict[str, ChatModel] = {}
    checked: set[tuple[str, str]] = set()
    for cell, name in zip(matrix, job_names(matrix), strict=True):
        own = load_recipe(recipe, [*overrides, *(f"{axis}={cell[axis]}" for axis in AXES)])
        kind = (cell["model"], cell["behavior"])  # another seed has the same data and prompts
        benchmark = Benchmark.from_recipe(own, chat=chats.get(cell["model"]), progress=False, check=kind not in checked)
        checked.add(kind)
        chats[cell["model"]] = benchmark.chat
        made.append(benchmark)
        jobs.append(make_job(cell, name=name, run=benchmark.folder, folder=folder, recipe=recipe, overrides=overrides))
    return Prepared(launch=Launch(folder=folder, jobs=tuple(jobs)), benchmarks=tuple(made))
