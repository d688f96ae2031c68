"""Several processes that hold one model together: the first tells the others what all of them do next, in lockstep.

`torchrun` starts them. A model in tensor parallel adds up partial sums after every layer, so each forward of the first
rank is a forward of all. What is told is a `Task`; nothing that could differ between ranks (time, memory, files)
decides what a rank does in one.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from caa_bench.models.memory import out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

IDLE = timedelta(days=365)
"""The others wait so long for the next task: the first one may judge answers in between."""
SETTLING_S = 600
"""So much later than the first rank another may end a task, or fail in it."""
LOADING_S = 7200
"""The same of loading a model: disks differ."""


@dataclass(kw_only=True)
class Held:
    """What a rank that is told its tasks has: the model, and interventions that it was sent before."""

    chat: Any = None
    known: list[Any] = field(default_factory=list)


class Task(Protocol):
    """What all ranks do together, as it is sent to the others."""

    settling_s: int

    def follow(self, held: Held) -> str:
        """Do on another rank what the first one does at the same time; what it returns must be the same on all."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How a task ended on one rank.

    Args:
        error: the kind of what it raised; "" for nothing.
        came: what came out, and what its forwards made; it must be the same on all ranks.
    """

    error: str
    came: str


class Ranks:
    """This process among those that `torchrun` started; all of them must make one.

    Raises:
        RuntimeError: they do not find each other.
    """

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # transformers takes over a group that is there; two hours, as its own, since ranks load at their own speed
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=LOADING_S))
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.busy = False
        self._seen: Any = 0.0
        self._control = dist.new_group(backend="gloo", timeout=IDLE)

    def tell(self, task: Task | None) -> None:
        """From the first rank: what all do next; None: nothing any more."""
        import torch.distributed as dist

        dist.broadcast_object_list([pickle.dumps(task)], src=0, group=self._control)

    def told(self) -> Task | None:
        """On the others: wait for what the first rank tells."""
        import torch.distributed as dist

        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, group=self._control)
        task: Task | None = pickle.loads(received[0])  # noqa: S301 - of our own process
        if task is None:  # with its threads still there, the interpreter's end would be an abort now and then
            dist.destroy_process_group()
        return task

    @contextmanager
    def together(self, task: Task) -> Iterator[list[str]]:
        """Around the first rank's own part of a task. What the block appends to the list is compared with the others'.

        Raises:
            SystemExit: the ranks did not all end it alike; nothing they compute is to be trusted any more.
            Exception: what the first rank's part raised, where every other one's failed in the same way.
        """
        came: list[str] = []
        self.busy = True
        try:
            self.tell(task)
        except RuntimeError as lost:
            self._leave(f"a rank has ended ({_first_line(lost)})")
        try:
            yield came
        except Exception as error:
            self.settle(task, error=error)
            self.busy = False
            raise
        self.settle(task, came="".join(came))
        self.busy = False

    def see(self, hidden: Tensor) -> None:
        """Take in what a forward made that is the same on all ranks: logits, of which each rank makes some, hide that a
        rank had another."""
        import torch

        self._seen = self._seen + hidden.detach().sum(dtype=torch.float64)

    def settle(self, task: Task, *, came: str = "", error: Exception | None = None) -> None:
        """Wait until every rank has ended a task, and compare how.

        Raises:
            SystemExit: on all ranks, where one of them ended otherwise, or not at all.
        """
        import torch
        import torch.distributed as dist

        mine = End(error=_kind(error), came="" if error is not None else f"{came} {float(self._seen)!r}")
        self._seen = 0.0
        ends: list[Any] = [None] * self.count
        try:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a sum that the others never joined is found here
            dist.monitored_barrier(group=self._control, timeout=timedelta(seconds=task.settling_s))
            dist.all_gather_object(ends, mine, group=self._control)
        except RuntimeError as lost:
            self._leave(f"a rank has ended or does not answer ({_first_line(error or lost)})")
        other = next((rank for rank, end in enumerate(ends) if end != ends[0]), None)
        if other is not None:
            self._leave(_apart(other, first=ends[0], its=ends[other]))

    def end(self) -> None:
        """Let the other ranks go; in the middle of a task they end by themselves when this process does."""
        import torch.distributed as dist

        if not self.busy:
            with suppress(RuntimeError):
                self.tell(None)
                dist.destroy_process_group()

    def _leave(self, why: str) -> None:
        if self.rank == 0:
            sys.stderr.write(f"caa-bench: {why}; finished work is kept: run the same command again\n")
        raise SystemExit(1)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]


def _kind(error: Exception | None) -> str:
    if error is None:
        return ""
    return "out of memory" if out_of_memory(error) else type(error).__name__


def _apart(rank: int, *, first: End, its: End) -> str:
    """How another rank ended otherwise than the first one."""
    if its.error != first.error:
        return f"rank {rank} ended with {its.error or 'no error'} where rank 0 had {first.error or 'none'}"
    return f"rank {rank} computed something else than rank 0"
