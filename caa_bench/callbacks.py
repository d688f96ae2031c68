"""Who is told what happens in a run, in the manner of Trainer's callbacks. A callback can never fail a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caa_bench.evaluators.base import Row
    from caa_bench.interventions import Intervention
    from caa_bench.report import Report
    from caa_bench.runs.artifacts import Artifact
    from caa_bench.runs.plan import Batch, Plan

logger = logging.getLogger(__name__)


class Callback:
    """Override what you want to hear of. `str(callback)` names it in warnings.

    Example:
        from caa_bench import Benchmark, Callback

        class Rows(Callback):
            def on_batch_end(self, *, batch, rows):
                print(batch.base.label, len(rows))

        Benchmark("tiny", callbacks=[Rows()]).compare()
    """

    def __str__(self) -> str:
        return type(self).__name__

    def on_begin(self, *, settings: Mapping[str, Any], folder: Path) -> None:
        """A comparison begins: its recipe, flat (dotted key -> value), and the run folder that it goes into."""

    def on_fit_begin(self, *, intervention: Intervention, pairs: int) -> None:
        """An intervention is about to be fitted, or its artifact taken, on so many pairs."""

    def on_fit_step(self, *, intervention: Intervention, done: int, total: int, note: str) -> None:
        """So many of the pairs that its fit goes through are done; `note` says what else is known (a held-out loss)."""

    def on_fit_end(self, *, intervention: Intervention, artifact: Artifact) -> None:
        """It is fitted and kept."""

    def on_fit_error(self, *, intervention: Intervention, error: Exception) -> None:
        """It could not be fitted; told before the reason is logged or raised."""

    def on_tuning_begin(self, *, name: str, plan: Plan, waiting: Sequence[Batch]) -> None:
        """A round of the search on the selection split begins; `waiting` is not measured yet."""

    def on_tuning_batch(self, *, batch: Batch) -> None:
        """A batch of the search is done, or failed."""

    def on_tuning_end(self, *, record: dict[str, Any]) -> None:
        """The search is over; `runs.tuning_record.tuning_lines(record)` says what came of it."""

    def on_compare_begin(self, *, plan: Plan, waiting: Sequence[Batch], folder: Path) -> None:
        """The plan is made; `waiting` is not measured yet."""

    def on_costs(self, *, lines: Sequence[str]) -> None:
        """What the run will ask for beside the model's forwards, told before it begins."""

    def on_batch_end(self, *, batch: Batch, rows: Sequence[Row]) -> None:
        """A batch is measured and its rows are on the disk."""

    def on_batch_error(self, *, batch: Batch, error: Exception) -> None:
        """A batch failed; the others go on."""

    def on_compare_end(self, *, folder: Path, failed: Sequence[Batch]) -> None:
        """Everything is measured but the batches that failed."""

    def on_report(self, *, report: Report) -> None:
        """The tables are computed and written."""


class Callbacks:
    """Tells each callback in turn; one that raises is left out from then on.

    Args:
        callbacks: in order.

    Attributes:
        mistakes: one line for each callback that raised.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.mistakes: list[str] = []
        self._callbacks = list(callbacks)

    def tell(self, event: str, **what: Any) -> None:
        """Call `event` ("on_report") of every callback."""
        for callback in list(self._callbacks):
            try:
                getattr(callback, event)(**what)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.mistakes.append(f"{callback} failed in {event} ({reason}); the results are complete without it")
                logger.warning(self.mistakes[-1])
                self._callbacks.remove(callback)
