"""A matrix of models, behaviors and seeds -> the jobs of one launch, kept in one file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.runs.jobs import Job
from caa_bench.storage.files import content_key, read_json, write_json

AXES = ("model", "behavior", "seed")
JOBS = "jobs.json"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The jobs of one launch, kept in `<folder>/jobs.json`, so that `launch status` needs nothing else."""

    folder: Path
    jobs: tuple[Job, ...]

    @property
    def left(self) -> list[Job]:
        """The jobs that are not done, in order."""
        return [job for job in self.jobs if job.state != "done"]

    def save(self) -> None:
        """Write `jobs.json`.

        Raises:
            UserError: the folder cannot be written.
        """
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
        except (KeyError, TypeError):
            raise UserError(f"{path}: damaged; launch again, finished runs are kept") from None
        return cls(folder=folder, jobs=jobs)


def cells(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the axes' values, in order, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def job_names(matrix: Sequence[Mapping[str, str]]) -> list[str]:
    """`<behavior>-<model>-seed<seed>` of each cell; two folders of one name get a key to tell them apart."""
    plain = ["-".join(map(_name_part, (cell["behavior"], cell["model"], f"seed{cell['seed']}"))) for cell in matrix]
    return [
        name if plain.count(name) == 1 else f"{name}-{content_key(dict(cell))[:6]}"
        for name, cell in zip(plain, matrix, strict=True)
    ]


def make_job(
    cell: Mapping[str, str], *, name: str, run: Path, folder: Path, recipe: str, overrides: Sequence[str]
) -> Job:
    """The job of one cell.

    Args:
        run: the folder that a plain `compare` of this cell fills.
        folder: the launch's folder, where the log goes.
        overrides: `key=value` of every job.
    """
    own = [f"{axis}={cell[axis]}" for axis in AXES]
    command = [sys.executable, "-m", "caa_bench", "compare", "--recipe", recipe, *overrides, *own]
    return Job(name=name, command=tuple(command), run=str(run), log=str(folder / "logs" / f"{name}.txt"))


def launch_key(matrix: Sequence[Mapping[str, str]], *, recipe: str, overrides: Sequence[str]) -> str:
    """The same matrix has the same folder, so that the same command continues it."""
    return content_key([list(map(dict, matrix)), recipe, list(overrides)])[:8]


def _name_part(value: str) -> str:
    """The last part of a path or hub name, as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", Path(value).name)[:60].strip(".-") or "run"
