"""How far a comparison or a search is: a bar in a terminal, a line a minute in a file, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.tracking.bars import bar, in_notebook
from caa_bench.tracking.fit_progress import EVERY_S, FIRST_AFTER_S, memory, time_left

if TYPE_CHECKING:
    from caa_bench.runs.plan import Batch

CONDITION, TOKEN = 0.01, 0.01
"""What a condition on a shared prefix, and an answer's token in it, cost beside the prompt itself; of a 0.5B model."""
AROUND, USUAL = 150, 400
"""Characters that a template puts around a question, and of a usual prompt: plain facts take .6 of the time that
published questions take, measured on a 1.5B model."""


class BatchProgress:
    """The batches of one plan, weighed by their work: one with a hundred conditions takes longer than one with four.

    Args:
        batches: all of them.
        waiting: those that are not done yet.
        terminal: whether lines can be redrawn; by default, whether stderr is one.
        clock: seconds.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        waiting: Sequence[Batch],
        *,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._begun = clock, clock()
        self._next = self._begun + FIRST_AFTER_S
        self._count, self._finished = len(batches), len(batches) - len(waiting)
        self._total, self._done = sum(map(work, waiting)), 0.0
        self._bar: Any = None
        if (sys.stderr.isatty() or in_notebook()) if terminal is None else terminal:
            self._bar = bar(total=len(batches), initial=self._finished, unit="batch", disable=False)

    def finished(self, batch: Batch) -> None:
        """One more is done."""
        self._finished += 1
        self._done += work(batch)
        if self._bar is not None:
            self._bar.set_postfix_str(self._left(), refresh=False)
            self._bar.update()
        elif self._clock() >= self._next and self._finished < self._count:
            self._next = self._clock() + EVERY_S
            said = f"  {self._finished} of {self._count} batches, {self._left()}, {memory()}"
            print(said, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _left(self) -> str:
        return time_left((self._clock() - self._begun) / self._done * (self._total - self._done))


def work(batch: Batch) -> float:
    """About what a batch costs, in usual prompts."""
    read = sum(AROUND + len(item.question) for item in batch.items) / USUAL
    return read + len(batch.items) * len(batch.treatments) * (CONDITION + TOKEN * batch.evaluator.decoded())
