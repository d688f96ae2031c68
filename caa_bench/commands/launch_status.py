"""A launch looked at: what its jobs would cost, how they stand, and their runs on one page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.commands.launch import Prepared
    from caa_bench.commands.run_time import RunTime
    from caa_bench.runs.jobs_matrix import Launch


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """What one job would cost: lines to show, and its time where the model's size is known."""

    lines: tuple[str, ...]
    time: RunTime | None


def status(words: list[str]) -> int:
    """How each job stands, beside one that failed the last line of its log and where that is; exit 1 with a failure.

    Raises:
        UserError: no folder, or one that holds no launch.
    """
    from caa_bench.runs import jobs_matrix

    if len(words) != 1:
        raise UserError("launch status: give the folder of one launch, as launch printed it")
    launch = jobs_matrix.Launch.load(Path(words[0]))
    states = {job.name: job.state for job in launch.jobs}
    width = max(map(len, states))
    for job in launch.jobs:
        why = terminal_safe(job.why)[:100]
        told = f"{why} ({job.log})" if states[job.name] == "failed" else job.run
        print(f"{states[job.name]:8} {job.name:{width}}  {told}")
    counts = {state: list(states.values()).count(state) for state in ("done", "failed", "running", "waiting")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 1 if counts["failed"] else 0


def dry_run(prepared: Prepared) -> int:
    """Every job with its cells, time and memory, and all of them together; nothing is run."""
    from caa_bench.commands.dry_run import dry_run_text, estimated_time
    from caa_bench.commands.run_time import together

    launch = prepared.launch
    told: dict[tuple[str, str], _Cost] = {}  # seeds cost the same
    costs = []
    for job, benchmark in zip(launch.jobs, prepared.benchmarks, strict=True):
        kind = (benchmark.chat.name, benchmark.behavior.id)
        if kind not in told:
            lines = dry_run_text(benchmark).splitlines()
            shown = [line for line in lines if line.startswith(("cells:", "tuning:", "time:", "memory:"))]
            told[kind] = _Cost(lines=tuple(shown or lines), time=estimated_time(benchmark))
        costs.append(told[kind].time)
        print("\n".join([f"{job.name}: {job.run}", *(f"  {line}" for line in told[kind].lines)]))
    known = [cost for cost in costs if cost is not None]
    unknown = f", without {len(costs) - len(known)} that cannot be estimated" if len(known) < len(costs) else ""
    print(f"one after another{unknown}: {together(known).text()}")
    print(f"{len(launch.jobs)} jobs; nothing was run")
    return 0


def reserve_openings(prepared: Prepared) -> None:
    """The openings of a test split are counted in the jobs' order, so that runs side by side end as one by one."""
    from caa_bench.runs.test_splits import reserve

    groups: dict[tuple[str, str], list[str]] = {}
    for job, benchmark in zip(prepared.launch.jobs, prepared.benchmarks, strict=True):
        if benchmark.args.split == "test" and job.state != "done":
            groups.setdefault((benchmark.chat.name, benchmark.behavior.id), []).append(benchmark.folder.name)
    for runs in groups.values():
        reserve(Path(prepared.benchmarks[0].args.output_dir), runs)


def join(launch: Launch) -> int:
    """One comparison page of every run that is done; exit 1 where one is missing."""
    from caa_bench.report import make_report
    from caa_bench.report.comparison import write_comparison

    done = [job for job in launch.jobs if job.state == "done"]
    if len(done) > 1:
        page = launch.folder / "comparison.html"
        write_comparison([make_report(Path(job.run)) for job in done], page)
        print(f"open {page}")
    if missing := [job.name for job in launch.left]:
        print(f"not done: {', '.join(missing)}; caa-bench launch status {launch.folder} says why", file=sys.stderr)
    return 1 if missing else 0
