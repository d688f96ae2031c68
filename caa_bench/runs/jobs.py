"""A job: the existing `compare` command in a process of its own, its log, and how it stands.

Knows neither SLURM nor how many GPUs there are: `commands/launch_local.py` and `commands/launch_slurm.py` hand jobs to
submitit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from caa_bench.errors import UserError
from caa_bench.runs.folder import MANIFEST, read_manifest
from caa_bench.storage.locks import is_held

State = Literal["done", "failed", "running", "waiting"]

_BEGUN = "caa-bench launch: began "
_ENDED = "caa-bench launch: the command ended with exit "
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
STOPPED = frozenset(status for number in _STOPS for status in (128 + number, -number))
"""Exits of a command that was asked to stop: it waits to be run again, nothing failed."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of the matrix.

    Args:
        name: `<behavior>-<model>-seed<seed>`, unique in its launch.
        command: what a user would type to run this cell alone.
        run: the run folder that this command fills.
        log: what the command prints, standard error included; later tries are appended.
    """

    name: str
    command: tuple[str, ...]
    run: str
    log: str

    def __call__(self, gpu: str | None = None) -> int:
        """Run the command and wait for it. Where this process is told to leave, the command finishes its batch first.

        Args:
            gpu: the one GPU that it may see, as CUDA_VISIBLE_DEVICES names it; None leaves that to the environment.

        Raises:
            RuntimeError: the command failed; its log says why.
        """
        env = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with Path(self.log).open("ab", buffering=0) as log:
            log.write(f"{_BEGUN}{' '.join(self.command)}\n".encode())
            process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
            try:
                status = process.wait()
            finally:
                if process.poll() is None:  # preempted or cancelled: what is finished is kept
                    process.send_signal(signal.SIGTERM)
                    process.wait()
            if status and status not in STOPPED:
                # The only trace of a command that the system killed, out of memory say
                log.write(f"{_ENDED}{128 - status if status < 0 else status}\n".encode())
        if status:
            raise RuntimeError(f"{self.name}: exit {status}; {self.log} says why")
        return status

    def checkpoint(self, gpu: str | None = None) -> Any:
        """What submitit runs after a preemption: the same command, which continues where it stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, gpu)

    @property
    def state(self) -> State:
        """As its run folder and its log tell it; one that was stopped waits until its command is run again."""
        folder = Path(self.run)
        if is_held(folder):
            return "running"
        status = ""
        if (folder / MANIFEST).is_file():
            try:
                status = read_manifest(folder)["status"]
            except UserError:
                status = "error"
        if status == "success" and (folder / "report.html").is_file():
            return "done"
        ended_badly = any(line.startswith(_ENDED) for line in self._newest_try())
        return "failed" if status == "error" or ended_badly else "waiting"

    @property
    def why(self) -> str:
        """The last thing that the command said; where it said nothing, how it ended."""
        lines = self._newest_try()
        said = [line for line in lines if not line.startswith(_ENDED)]
        return (said or lines or [""])[-1]

    def _newest_try(self) -> list[str]:
        """The lines of the log since the command was last begun."""
        path = Path(self.log)
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text.rpartition(_BEGUN)[2].strip().splitlines()[1:]
