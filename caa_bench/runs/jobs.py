"""A matrix of models, behaviors and seeds -> jobs, each the existing `compare` command; and how each job stands.

Knows neither SLURM nor this machine's GPUs: `commands/launch.py` hands the jobs to submitit.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from caa_bench.errors import UserError
from caa_bench.runs.folder import MANIFEST, read_manifest
from caa_bench.storage.files import content_key, read_json, write_json

AXES = ("model", "behavior", "seed")
JOBS = "jobs.json"
State = Literal["done", "failed", "running", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of the matrix.

    Args:
        name: `<behavior>-<model>-seed<seed>`, unique in its launch.
        command: what a user would type to run this cell alone.
        run: the run folder that this command fills.
        log: what the command prints, standard error included.
    """

    name: str
    command: tuple[str, ...]
    run: str
    log: str

    def __call__(self) -> int:
        """Run the command and wait for it. A signal to this process asks the command to finish its batch and stop.

        Raises:
            RuntimeError: the command failed; its log says why.
        """
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with Path(self.log).open("ab") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                status = process.wait()
            finally:
                if process.poll() is None:  # preempted or cancelled: what is finished is kept
                    process.send_signal(signal.SIGTERM)
                    process.wait()
        if status:
            raise RuntimeError(f"{self.name}: exit {status}; {self.log} says why")
        return status

    def checkpoint(self, *_: Any) -> Any:
        """What submitit runs after a preemption: the same command, which continues where it stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def state(self) -> State:
        """As its run folder tells it; a run that nobody works on counts as waiting until its command is run again."""
        folder = Path(self.run)
        if not (folder / MANIFEST).is_file():
            return "failed" if _ended_badly(Path(self.log)) else "waiting"
        status = read_manifest(folder)["status"]
        if status == "success":
            return "done" if (folder / "report.html").is_file() else "running"
        if status == "error":
            return "failed"
        return "running" if (folder / ".lock-holder.json").is_file() else "waiting"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The jobs of one launch, kept in `<folder>/jobs.json`, so that `launch status` needs nothing else."""

    folder: Path
    jobs: tuple[Job, ...]

    def save(self) -> None:
        """Write `jobs.json`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / JOBS, {"jobs": [asdict(job) for job in self.jobs]})

    @classmethod
    def load(cls, folder: Path) -> Launch:
        """Read it back.

        Raises:
            UserError: there is no launch, or its file is damaged.
        """
        path = folder / JOBS
        if not path.is_file():
            raise UserError(f"{folder}: no {JOBS}; give the folder that caa-bench launch printed")
        try:
            jobs = tuple(Job(**{**job, "command": tuple(job["command"])}) for job in read_json(path)["jobs"])
        except (KeyError, TypeError, json.JSONDecodeError):
            raise UserError(f"{path}: damaged; launch again, finished runs are kept") from None
        return cls(folder=folder, jobs=jobs)


def cells(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the axes' values, in order, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def make_job(cell: Mapping[str, str], *, run: Path, folder: Path, recipe: str, overrides: Sequence[str]) -> Job:
    """The job of one cell.

    Args:
        run: the folder that a plain `compare` of this cell fills.
        folder: the launch's folder, where the log goes.
        overrides: `key=value` of every job.
    """
    parts = [Path(cell["behavior"]).name, Path(cell["model"]).name, f"seed{cell['seed']}"]
    name = "-".join(part for part in parts if part)
    own = [f"{axis}={cell[axis]}" for axis in AXES]
    command = [sys.executable, "-m", "caa_bench", "compare", "--recipe", recipe, *overrides, *own]
    return Job(name=name, command=tuple(command), run=str(run), log=str(folder / "logs" / f"{name}.txt"))


def launch_key(cells_: Sequence[Mapping[str, str]], *, recipe: str, overrides: Sequence[str]) -> str:
    """The same matrix has the same folder, so that the same command continues it."""
    return content_key([list(map(dict, cells_)), recipe, list(overrides)])[:8]


def _ended_badly(log: Path) -> bool:
    """A command that refused its arguments leaves no run folder, but one line that says so."""
    if not log.is_file():
        return False
    lines = log.read_text(errors="replace").strip().splitlines()
    return bool(lines) and lines[-1].startswith("caa-bench: ") and "stopped" not in lines[-1]
