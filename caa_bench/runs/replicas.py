"""Batches of one run on several copies of the model, one a GPU: the rows are the same however many there are.

`caa-bench compare --replicas 4`. A batch is computed whole by one process, as a single process computes it; the command
itself is the first of them and alone holds the run folder, fits, tunes, judges and writes, in the plan's order.
Imported only where replicas are asked for.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

from caa_bench.errors import UserError
from caa_bench.evaluators.base import Evaluator, Job, Row
from caa_bench.interventions import Intervention
from caa_bench.models.loaded import LoadedModel
from caa_bench.models.model import ChatModel
from caa_bench.runs.plan import Batch
from caa_bench.runs.replica_process import Answer, Copied, pickled, serve

logger = logging.getLogger(__name__)
LEAVING_S = 10.0
"""How long a process may take to end by itself once nobody speaks to it."""

JobOf = Callable[[Batch, int], Job]


class Replicas:
    """Processes with a copy of the model each; the calling one is the first.

    Args:
        chat: the model; each process loads it for itself.
        count: how many copies there are, the caller's included.
        gpus: by name, one for each copy; empty on a machine without any.
        plugins: see `Copied`.

    Raises:
        UserError: a model that is loaded already has no copies; fewer GPUs than copies.

    Example:
        >>> with Replicas(benchmark.chat, count=2) as benchmark.replicas:  # doctest: +SKIP
        ...     benchmark.compare()
    """

    def __init__(self, chat: ChatModel, *, count: int, gpus: Sequence[str] = (), plugins: Sequence[str] = ()) -> None:
        if count < 1:
            raise UserError(f"--replicas: {count} given; give 1 or more")
        if gpus and count > len(gpus):
            raise UserError(f"--replicas: {count} asked for, {len(gpus)} GPUs visible; give fewer")
        self._chat, self._plugins = chat, tuple(plugins)
        self._gpus: list[str | None] = [*gpus] if gpus else [None] * count
        self._count = count
        self._others: list[Other] = []
        self._rank: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Nothing is started yet: the processes begin with the first batches."""
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            other.end()
        self._others = []

    def share(self, batches: Sequence[Batch], job_of: JobOf, *, size: int) -> None:
        """Say which batches come, in their order; every process but this one begins with its first.

        Args:
            job_of: batch and prompts a pass -> the job.
            size: prompts a pass to begin with.
        """
        if not self._others and len(batches) > 1:
            self._others = list(self._started())
        ranks = 1 + len(self._others)
        self._rank = {batch.key: number % ranks for number, batch in enumerate(batches)}
        for rank, other in enumerate(self._others, 1):
            other.begin([batch for batch in batches if self._rank[batch.key] == rank], job_of, size=size)

    def rows(self, batch: Batch, job: Job) -> list[Row]:
        """The rows of a batch that `share` named, from the process whose turn it is.

        Raises:
            Exception: what computing it raised there.
        """
        rank = self._rank.get(batch.key, 0)
        if rank and (answer := self._others[rank - 1].answer(batch, size=job.prompts_per_pass)) is not None:
            if answer.error is not None:
                raise answer.error
            return answer.rows
        return batch.evaluator.evaluate(job)

    def alone(self, evaluator: Evaluator, job: Job) -> list[Row]:
        """The rows of a job that `share` did not name; the caller computes them."""
        return evaluator.evaluate(job)

    def _started(self) -> Iterator[Other]:
        import torch

        if isinstance(self._chat, LoadedModel):
            raise UserError("replicas: a loaded model cannot be loaded again; give its name or folder")
        copied = Copied(
            name=self._chat.name,
            loading=self._chat.loading,
            dtype=self._chat.dtype,
            threads=torch.get_num_threads(),
            plugins=self._plugins,
        )
        context = multiprocessing.get_context("spawn")
        for rank in range(1, self._count):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, copied), name=f"replica {rank}", daemon=True)
            with _visible(self._gpus[rank]):
                process.start()
            theirs.close()  # so that this end tells when the process dies
            yield Other(rank, mine, process)


class Other:
    """One process beside the caller's, as the caller sees it. It computes one batch ahead of what is asked for.

    Args:
        rank: its number, from 1.
        connection: to it.
        process: it.
    """

    def __init__(self, rank: int, connection: Connection, process: BaseProcess) -> None:
        self._rank, self._mine, self._process = rank, connection, process
        self._left: deque[Batch] = deque()
        self._sent: tuple[str, int] | None = None
        self._known: list[Intervention] = []
        self._alive = True

    def begin(self, batches: Sequence[Batch], job_of: JobOf, *, size: int) -> None:
        """Its batches, and the first of them to work on."""
        self._drop()
        self._known.clear()  # what was sent may have been changed since
        self._left, self._job_of = deque(batches), job_of
        if self._left:
            self._send(self._left[0], size)

    def answer(self, batch: Batch, *, size: int) -> Answer | None:
        """What it made of a batch at so many prompts a pass, and the next one to work on; None where it
        cannot."""
        if self._sent != (batch.key, size):
            # Begun at another size, before memory ran out elsewhere: a single process would take this one
            self._drop()
            self._send(batch, size)
        found = self._received()
        while self._left and self._left[0].key != batch.key:
            self._left.popleft()
        if found is not None and found.error is not None:
            return found  # perhaps asked for again, at another size
        self._left.popleft()
        if self._left:
            self._send(self._left[0], size)
        return found

    def end(self) -> None:
        """Let it go; it ends when it reads the end of the connection."""
        self._mine.close()
        self._process.join(LEAVING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, batch: Batch, size: int) -> None:
        if self._alive:
            try:
                self._mine.send_bytes(pickled(batch.evaluator, self._job_of(batch, size), self._known))
                self._sent = (batch.key, size)
            except OSError:
                self._lost()
            except (pickle.PicklingError, AttributeError, TypeError) as error:  # a class inside a function, say
                self._unsent(error)

    def _received(self) -> Answer | None:
        if not self._alive or self._sent is None:
            return None
        self._sent = None
        try:
            found: Answer = pickle.loads(self._mine.recv_bytes())  # noqa: S301 - of our own process
        except (EOFError, OSError):
            self._lost()
            return None
        if found.unread is not None:
            self._unsent(found.unread)
            return None
        return found

    def _drop(self) -> None:
        """Wait for what is under way and forget it."""
        if self._sent is not None:
            self._received()

    def _unsent(self, error: Exception) -> None:
        logger.warning("a batch cannot go to replica %d (%s); it is computed here", self._rank, error)
        self._known.clear()

    def _lost(self) -> None:
        logger.warning("replica %d died; its batches are computed here", self._rank)
        self._alive, self._sent = False, None


@contextmanager
def _visible(gpu: str | None) -> Iterator[None]:
    """What a process that starts in this block may see."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield
    finally:
        if gpu is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
