"""How far a comparison or a search is: a bar in a terminal, a line a minute in a file, with the time left."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.tracking.bars import bar, in_notebook
from caa_bench.tracking.fit_progress import EVERY_S, FIRST_AFTER_S, memory, time_left

if TYPE_CHECKING:
    from caa_bench.engine.pace import Scored
    from caa_bench.runs.plan import Batch

CONDITION, TOKEN = 0.03, 0.03
"""What a condition on a shared prefix, and an answer's token in it, cost beside the prompt itself until a run has shown
it: .03 with a 0.5B model, .09 with one of 270M whose vocabulary is as large as the rest of it."""
AROUND, USUAL = 220, 400
"""Characters that a template puts around a question, and of a usual prompt: with them plain facts take .51 to .55 of
the time of published questions, as was measured on models of 0.5B and 270M."""

DRAWN = "{l_bar}{bar}| {n_fmt}/{total_fmt} batches [{elapsed}{postfix}]"
"""The bar without tqdm's own time left, which takes all batches for equal."""


@dataclass(kw_only=True)
class Spent:
    """What one evaluator took so far.

    Args:
        read / conditions: usual prompts read, and conditions that items were measured under.
        read_s / conditions_s: seconds for each; 0 where the evaluator does not tell them apart.
        other_s: all other seconds.
    """

    read: float = 0.0
    conditions: float = 0.0
    read_s: float = 0.0
    conditions_s: float = 0.0
    other_s: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.read_s + self.conditions_s + self.other_s

    def ahead(self, read: float, conditions: float, *, decoded: int) -> float:
        """Seconds for so much more, as fast as it went until now."""
        if not self.seconds:
            return 0.0
        told = self.read_s + self.conditions_s
        if not told:
            return self.seconds * _work(read, conditions, decoded) / _work(self.read, self.conditions, decoded)
        apart = read * self.read_s / self.read + conditions * self.conditions_s / self.conditions
        return apart * self.seconds / told


class BatchProgress:
    """The batches of one plan, weighed by their work: one with a hundred conditions takes longer than one with four.

    Args:
        batches: all of them.
        waiting: those that are not done yet, in their order.
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
        from caa_bench.engine.pace import listen

        self._clock, self._last = clock, clock()
        self._next = self._last + FIRST_AFTER_S
        self._count, self._waiting = len(batches), list(waiting)
        self._spent: dict[str, Spent] = defaultdict(Spent)
        self._now, self._share = Spent(), 0.0  # of the batch that is computed now
        self._bar: Any = None
        if (sys.stderr.isatty() or in_notebook()) if terminal is None else terminal:
            done = len(batches) - len(waiting)
            self._bar = bar(total=len(batches), initial=done, unit="batch", disable=False, bar_format=DRAWN)
        self._end = listen(self.scored)

    def scored(self, some: Scored) -> None:
        """A part of the batch that is computed now is done."""
        if not self._waiting:
            return
        if not self._share and not self._spent:  # what came before the first prompt comes once
            self._last = self._clock() - some.read_s - some.conditions_s
        self._share = min(self._share + some.share * some.conditions / len(self._waiting[0].treatments), 1.0)
        self._now.read_s += some.read_s
        self._now.conditions_s += some.conditions_s
        if self._share < 1:
            self._say(f" and {self._share:.0%} of the next")

    def finished(self, batch: Batch) -> None:
        """One more is done."""
        self._add(self._spent[batch.evaluator.name], batch, share=1.0)
        self._last, self._now, self._share = self._clock(), Spent(), 0.0
        self._waiting = [other for other in self._waiting if other is not batch]
        if self._bar is not None:
            self._bar.update()
        self._say("")

    def close(self) -> None:
        """Take the bar away, and listen no longer."""
        self._end()
        if self._bar is not None:
            self._bar.close()

    def left(self) -> float:
        """Seconds until all batches are done."""
        spent = {name: Spent(**vars(one)) for name, one in self._spent.items()}
        current = self._waiting[0] if self._waiting and self._share else None
        if current is not None:
            self._add(spent.setdefault(current.evaluator.name, Spent()), current, share=self._share)
        return sum(_ahead(batch, spent, 1 - self._share if batch is current else 1.0) for batch in self._waiting)

    def _add(self, spent: Spent, batch: Batch, *, share: float) -> None:
        """What the batch took until now, and what of it is done."""
        read, conditions = amounts(batch)
        took = max(self._clock() - self._last, 0.0)
        spent.read += share * read
        spent.conditions += share * conditions
        spent.read_s += self._now.read_s
        spent.conditions_s += self._now.conditions_s
        spent.other_s += max(took - self._now.read_s - self._now.conditions_s, 0.0)

    def _say(self, more: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{time_left(self.left())}, {memory()}")
        elif self._clock() >= self._next and self._waiting:
            self._next = self._clock() + EVERY_S
            done = self._count - len(self._waiting)
            said = f"  {done} of {self._count} batches{more}, {time_left(self.left())}, {memory()}"
            print(said, file=sys.stderr, flush=True)


def amounts(batch: Batch) -> tuple[float, float]:
    """What a batch has to read, in usual prompts, and under how many conditions its items are measured."""
    read = sum(AROUND + len(item.question) for item in batch.items) / USUAL
    return read, float(len(batch.items) * len(batch.treatments))


def _work(read: float, conditions: float, decoded: int) -> float:
    """About what it costs, in usual prompts."""
    return read + conditions * (CONDITION + TOKEN * decoded)


def _ahead(batch: Batch, spent: dict[str, Spent], share: float) -> float:
    """Seconds for that share of a batch: by its own evaluator, or by all others where that has measured nothing yet."""
    read, conditions = (share * amount for amount in amounts(batch))
    decoded = batch.evaluator.decoded()
    own = spent.get(batch.evaluator.name)
    if own is not None and own.seconds:
        return own.ahead(read, conditions, decoded=decoded)
    of_all = Spent(**{name: sum(getattr(one, name) for one in spent.values()) for name in vars(Spent())})
    return of_all.ahead(read, conditions, decoded=decoded)
