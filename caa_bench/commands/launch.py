"""`launch`: a matrix of models, behaviors and seeds as jobs on this machine's GPUs or on SLURM, through submitit.

caa-bench launch model=[tiny,my-model] behavior=all seed=[0,1,2] --workers 2
caa-bench launch model=[a,b] behavior=all seed=[0,1] --slurm partition=gpu,gpus=1,time=4:00:00
caa-bench launch status runs/launches/1a2b3c4d
"""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import Command, add_set, overrides_of
from caa_bench.errors import UserError
from caa_bench.runs.jobs import AXES, Job, Launch, cells, launch_key, make_job

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark

POLL_S = 0.5
NEVER_MIN = 60 * 24 * 30
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_OWN = {"partition", "gpus", "cpus", "mem_gb", "time"}


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
            help="recipe keys; model, behavior and seed may be lists. Or: status",
        )
        parser.add_argument("--workers", type=int, default=1, help="jobs at once on this machine (%(default)s)")
        parser.add_argument("--gpus", type=int, default=0, help="GPUs of this machine, one a job in turn (%(default)s)")
        parser.add_argument(
            "--slurm", metavar="KEY=VALUE,...", help="partition, gpus, cpus, mem_gb, time; any other key of sbatch"
        )
        parser.add_argument("--dry-run", action="store_true", help="list the jobs and what each costs, run nothing")

    def run(self, options: Namespace) -> int:
        """Check every job; then list, submit or look at them."""
        if options.words[:1] == ["status"]:
            return _status(options.words[1:])
        if options.workers < 1 or options.gpus < 0:
            raise UserError("--workers: give 1 or more, and --gpus 0 or more")
        axes, rest = _axes([*overrides_of(options), *options.words])
        slurm = None if options.slurm is None else slurm_parameters(options.slurm)
        launch, made = _prepared(axes, recipe=options.recipe, overrides=rest)
        if options.dry_run:
            return _dry_run(launch, made)
        _need_submitit()
        launch.save()
        print(f"{len(launch.jobs)} jobs; how they stand: caa-bench launch status {launch.folder}")
        if slurm is not None:
            return _on_slurm(launch, slurm)
        return _here(launch, workers=options.workers, gpus=options.gpus)


def _axes(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The axes' values, and every other override as it was given."""
    from caa_bench.config.yaml_lines import parse

    axes: dict[str, list[str]] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        key = "seed" if key == "seeds" else key
        if key not in AXES:
            rest.append(word)
            continue
        read = parse(value, source=f"override: {key}", numbered=False).root.value
        found = [str(node.value) for node in read] if isinstance(read, list) else [str(read)]
        if not found or len(set(found)) < len(found):
            raise UserError(f"override: {key}: {value!r} is an empty list, or names something twice; name each once")
        axes[key] = found
    return axes, rest


def _prepared(
    axes: Mapping[str, Sequence[str]], *, recipe: str, overrides: Sequence[str]
) -> tuple[Launch, list[Benchmark]]:
    """Every job, checked as `check` does it: a mistake in one of them costs one line before any of them runs."""
    from caa_bench.behaviors.behavior import behavior_names, published_names
    from caa_bench.benchmark import Benchmark
    from caa_bench.recipe import load_recipe

    plain = load_recipe(recipe, overrides)
    every = {
        "model": list(axes.get("model", [plain.model])),
        "behavior": list(axes.get("behavior", [plain.behavior])),
        "seed": list(axes.get("seed", [str(plain.args.seed)])),
    }
    if every["behavior"] == ["all"]:
        args = plain.args
        every["behavior"] = behavior_names() if args.data == "own" else published_names(args.data_dir)
    matrix = cells(every)
    key = launch_key(matrix, recipe=recipe, overrides=overrides)
    folder = Path(plain.args.output_dir) / "launches" / key
    made, jobs = [], []
    for cell in matrix:
        own = load_recipe(recipe, [*overrides, *(f"{axis}={cell[axis]}" for axis in AXES)])
        benchmark = Benchmark.from_recipe(own)
        made.append(benchmark)
        jobs.append(make_job(cell, run=benchmark.folder, folder=folder, recipe=recipe, overrides=overrides))
    return Launch(folder=folder, jobs=tuple(jobs)), made


def _here(launch: Launch, *, workers: int, gpus: int) -> int:
    """At most `workers` at once. Ctrl-C asks the running ones to finish their batch; the same command continues."""
    from submitit import LocalExecutor

    waiting = [job for job in launch.jobs if job.state != "done"]
    kept = len(launch.jobs) - len(waiting)
    if kept:
        print(f"{kept} are done from before")
    running: dict[str, tuple[Job, Any]] = {}
    free = list(range(gpus or workers))
    places: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers and free:
                job = waiting.pop(0)
                places[job.name] = free.pop(0)
                executor = LocalExecutor(folder=launch.folder / "submitit")
                visible = {"gpus_per_node": 1, "visible_gpus": (places[job.name],)} if gpus else {}
                executor.update_parameters(timeout_min=NEVER_MIN, **visible)
                running[job.name] = (job, executor.submit(job))
                print(f"started {job.name}", flush=True)
            time.sleep(POLL_S)
            for name, (job, submitted) in list(running.items()):
                if submitted.done():
                    del running[name]
                    free.append(places.pop(name))
                    print(f"{job.state}: {name}" + (f"; {job.log} says why" if job.state != "done" else ""), flush=True)
    except KeyboardInterrupt:
        for _, submitted in running.values():
            submitted.cancel(check=False)
        print("\nstopped; what is finished is kept: run the same command again to continue", file=sys.stderr)
        return 130
    return _join(launch)


def _on_slurm(launch: Launch, parameters: dict[str, Any]) -> int:
    """Submit what is not done, and a last job behind them that joins the runs into one page."""
    import submitit

    executor = submitit.SlurmExecutor(folder=launch.folder / "submitit")
    executor.update_parameters(**parameters)
    waiting = [job for job in launch.jobs if job.state != "done"]
    with executor.batch():
        submitted = [executor.submit(job) for job in waiting]
    last = submitit.SlurmExecutor(folder=launch.folder / "submitit")
    after = {"dependency": "afterany:" + ":".join(job.job_id for job in submitted)} if submitted else {}
    small = {key: value for key, value in parameters.items() if key not in ("gpus_per_node", "additional_parameters")}
    last.update_parameters(**small, additional_parameters=parameters.get("additional_parameters", {}) | after)
    last.submit(_join, launch)
    print(f"submitted {len(submitted)} jobs and one that joins them")
    return 0


def _join(launch: Launch) -> int:
    """One comparison page of every run that is done; exit 1 where one is missing."""
    from caa_bench.report import make_report
    from caa_bench.report.comparison import write_comparison

    done = [job for job in launch.jobs if job.state == "done"]
    if len(done) > 1:
        page = launch.folder / "comparison.html"
        write_comparison([make_report(Path(job.run)) for job in done], page)
        print(f"open {page}")
    missing = [job.name for job in launch.jobs if job.state != "done"]
    if missing:
        print(f"not done: {', '.join(missing)}; caa-bench launch status {launch.folder} says why", file=sys.stderr)
    return 1 if missing else 0


def _status(words: Sequence[str]) -> int:
    """How each job stands, the last line of the log beside one that failed."""
    if len(words) != 1:
        raise UserError("launch status: give the folder of one launch, as launch printed it")
    launch = Launch.load(Path(words[0]))
    width = max(len(job.name) for job in launch.jobs)
    for job in launch.jobs:
        print(f"{job.state:8} {job.name:{width}}  {_last_line(Path(job.log)) if job.state == 'failed' else job.run}")
    return 1 if any(job.state == "failed" for job in launch.jobs) else 0


def _dry_run(launch: Launch, made: Sequence[Benchmark]) -> int:
    from caa_bench.commands.dry_run import dry_run_text

    for job, benchmark in zip(launch.jobs, made, strict=True):
        told = [
            line for line in dry_run_text(benchmark).splitlines() if line.startswith(("cells:", "time:", "memory:"))
        ]
        print("\n".join([f"{job.name}: {job.run}", *(f"  {line}" for line in told)]))
    print(f"{len(launch.jobs)} jobs; nothing was run")
    return 0


def slurm_parameters(text: str) -> dict[str, Any]:
    """`partition=gpu,gpus=1,time=4:00:00` -> submitit's parameters of a SLURM job.

    Raises:
        UserError: a part that is no `key=value`, or a number or time that cannot be read.
    """
    given = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise UserError(f"--slurm: {part!r} is not key=value; write partition=gpu,gpus=1,time=4:00:00")
        given[key.strip()] = value.strip()
    found: dict[str, Any] = {"time": _minutes(given.get("time", "24:00:00")), "nodes": 1}
    if "partition" in given:
        found["partition"] = given["partition"]
    for key, name in (("gpus", "gpus_per_node"), ("cpus", "cpus_per_task")):
        if key in given:
            found[name] = _whole(key, given[key])
    if "mem_gb" in given:
        found["mem"] = f"{_whole('mem_gb', given['mem_gb'])}GB"
    if rest := {key: value for key, value in given.items() if key not in _OWN}:
        found["additional_parameters"] = rest
    return found


def _minutes(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise UserError(f"--slurm: time: {text!r} is no time; write hours:minutes:seconds, like 4:00:00 or 2-00:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 24 * 60 + hours * 60 + minutes + bool(seconds)


def _whole(key: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"--slurm: {key}: {text!r} is no whole number above 0")
    return int(text)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return f"{lines[-1][:100]} ({log})" if lines else str(log)


def _need_submitit() -> None:
    from importlib.util import find_spec

    if find_spec("submitit") is None:
        raise UserError("launch: needs the package submitit; pip install 'caa-bench[launch]'")
