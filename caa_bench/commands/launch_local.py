"""Jobs on this machine, a few at once, each with a GPU of its own where there are any; through submitit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.runs.jobs import Job
    from caa_bench.runs.jobs_matrix import Launch

POLL_S = 0.2
LEAVING_S = 120.0
"""How long a stopped launch waits for its jobs to finish what they compute."""
NEVER_MIN = 60 * 24 * 365

Place = str | None
"""The GPU of one job at a time, as CUDA_VISIBLE_DEVICES names it; None: the CPU."""


def places(workers: int | None, gpus: int | None) -> list[Place]:
    """Where jobs run, one at a time at each place.

    Args:
        workers: jobs at once; None: one a GPU, or one.
        gpus: how many GPUs; None: all that are visible.

    Raises:
        UserError: fewer GPUs than asked for, or more workers than GPUs.
    """
    if (workers is not None and workers < 1) or (gpus is not None and gpus < 0):
        raise UserError("--workers: give 1 or more, and --gpus 0 or more")
    visible = visible_gpus() if gpus != 0 else []
    if gpus is not None and gpus > len(visible):
        raise UserError(f"--gpus: {gpus} asked for, {len(visible)} visible; give fewer, or --gpus 0 for the CPU")
    if not visible:
        return [None] * (workers or 1)
    chosen: list[Place] = [*visible[:gpus]]
    if workers is not None and workers > len(chosen):
        raise UserError(f"--workers: {workers} on {len(chosen)} GPUs; each job has a GPU of its own, give fewer")
    return chosen[:workers]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that the environment gives them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]


def here(launch: Launch, where: Sequence[Place]) -> int:
    """Run what is not done, one job a place. Ctrl-C and SIGTERM let the running ones finish their batch and stop.

    A job that still runs from an earlier launch is left to it and waited for.
    """
    waiting = launch.left
    if kept := len(launch.jobs) - len(waiting):
        print(f"{kept} are done from before", flush=True)
    running: dict[str, _Running] = {}
    free = list(where)
    with _as_interrupt():
        try:
            while waiting or running:
                while free and (job := next((one for one in waiting if one.state != "running"), None)):
                    waiting.remove(job)
                    if job.state != "done":  # by an earlier launch that was still at it
                        running[job.name] = _Running(job, launch, free.pop(0))
                time.sleep(POLL_S)
                for name in [name for name, one in running.items() if one.ended()]:
                    free.append(running.pop(name).place)
        except KeyboardInterrupt as stop:
            _leave(list(running.values()))
            print("\nstopped; what is finished is kept: run the same command again to continue", file=sys.stderr)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    from caa_bench.commands.launch_status import join

    return join(launch)


class _Running:
    """A job that submitit has started."""

    def __init__(self, job: Job, launch: Launch, place: Place) -> None:
        from submitit import LocalExecutor

        self.job, self.place = job, place
        executor = LocalExecutor(folder=launch.folder / "submitit")
        executor.update_parameters(timeout_min=NEVER_MIN)
        self.submitted: Any = executor.submit(job, place)
        print(f"started {job.name}", flush=True)

    def ended(self) -> bool:
        """Whether it is over; then it is said how."""
        if not self.submitted.done():
            return False
        state = self.job.state
        print(f"{state}: {self.job.name}" + ("" if state == "done" else f"; {self.job.log} says why"), flush=True)
        return True


def _leave(running: Sequence[_Running]) -> None:
    """Ask the jobs to stop and wait until their folders are free."""
    for one in running:
        one.submitted.cancel(check=False)
    limit = time.monotonic() + LEAVING_S
    while time.monotonic() < limit and any(not one.submitted.done() or one.job.state == "running" for one in running):
        time.sleep(POLL_S)


@contextmanager
def _as_interrupt() -> Iterator[None]:
    """SIGTERM ends a launch as Ctrl-C does: jobs would otherwise go on without it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
