"""Batches -> rows on the disk, one batch at a time: one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from caa_bench.callbacks import Callbacks
from caa_bench.errors import UserError
from caa_bench.evaluators.base import Aftermath, Evaluator, Job, Row
from caa_bench.models.memory import PromptsPerPass
from caa_bench.models.model import ChatModel
from caa_bench.recipe import BenchmarkArguments
from caa_bench.runs.apart import measured_apart
from caa_bench.runs.folder import RowStore, RunFolder
from caa_bench.runs.plan import Batch
from caa_bench.runs.signals import Stop

if TYPE_CHECKING:
    from caa_bench.runs.lockstep import Lockstep
    from caa_bench.runs.replicas import Replicas

logger = logging.getLogger(__name__)


def nothing_scored(rows: RowStore) -> list[str]:
    """One line where there are rows and each of them is an error: a run without a number is no success."""
    errors = Counter(str(row["error"]) for row in rows.rows())
    if not errors or "None" in errors:
        return []
    (most, _), *_ = errors.most_common(1)
    return [
        f"no cell has a scored item: all {errors.total():,} answers are errors ({most}); check the model's weights and "
        "dtype (loading.dtype=bfloat16 or float32 where float16 overflows)"
    ]


def what_follows(evaluators: Sequence[Evaluator], work: Aftermath) -> list[str]:
    """What the evaluators do with the finished rows (judging them, say); logs and returns what is still missing then.

    Raises:
        UserError: what a user has to do something about.
    """
    missing = nothing_scored(work.rows)
    for evaluator in evaluators:
        try:
            missing += evaluator.afterwards(work)
        except UserError:
            raise
        except Exception as error:
            logger.exception("%s: its rows are kept, but what follows from them failed", evaluator.name)
            missing.append(f"{type(error).__name__}: {error}")
    for line in missing:
        logger.error(line)
    return missing


class Measurement:
    """Computes batches and writes each as a whole.

    Args:
        chat: the model.
        args: how to run.
        run: the open run folder; it records the prompts a pass of every batch that needed fewer than usual.
        rows: where rows go.
        callbacks: told of every batch.
        replicas: copies of the model that share the batches; None: this process computes all of them.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        args: BenchmarkArguments,
        run: RunFolder,
        rows: RowStore,
        callbacks: Callbacks,
        replicas: Replicas | Lockstep | None = None,
    ) -> None:
        self.chat = chat
        self.args = args
        self.run = run
        self.rows = rows
        self.callbacks = callbacks
        self.replicas = replicas
        self._smaller: dict[str, int] = dict(run.manifest["facts"].get("prompts_per_pass", {}))
        # Where an interrupted run had to go down to, its continuation begins.
        self._per_pass = PromptsPerPass(min([Job.prompts_per_pass, *self._smaller.values()]))

    def of(self, batches: Sequence[Batch], *, stop: Stop) -> list[Batch]:
        """Measure the batches in turn; those that failed are logged with their traceback and returned.

        Raises:
            UserError: an evaluator cannot begin.
            SystemExit: a stop was asked for; what is measured is on the disk.
        """
        failed = []
        for evaluator in {id(batch.evaluator): batch.evaluator for batch in batches}.values():
            own = [batch for batch in batches if batch.evaluator is evaluator]
            evaluator.beforehand([self._job(batch, self._per_pass.size) for batch in own])
        if self.replicas is not None:
            self.replicas.share(batches, self._job, size=self._per_pass.size)
        for batch in batches:
            stop.leave_if_asked()
            try:
                rows = self._per_pass.run(partial(self._compute, batch))
            except Exception as error:
                logger.error("a batch of %s failed", batch.base.label, exc_info=error)
                apart = measured_apart(
                    batch.evaluator, self._job(batch, self._per_pass.size), error, evaluate=self._alone(batch.evaluator)
                )
                if apart is None:
                    self.callbacks.tell("on_batch_error", batch=batch, error=error)
                    failed.append(batch)
                    continue
                logger.error("%s failed alone; everything beside it is measured", ", ".join(apart.broken))
                rows = apart.rows
            self._write(batch, rows)
            self.callbacks.tell("on_batch_end", batch=batch, rows=rows)
        return failed

    def _compute(self, batch: Batch, prompts_per_pass: int) -> list[Row]:
        job = self._job(batch, prompts_per_pass)
        return batch.evaluator.evaluate(job) if self.replicas is None else self.replicas.rows(batch, job)

    def _alone(self, evaluator: Evaluator) -> Callable[[Job], list[Row]]:
        return evaluator.evaluate if self.replicas is None else partial(self.replicas.alone, evaluator)

    def _job(self, batch: Batch, prompts_per_pass: int) -> Job:
        return Job(
            chat=self.chat,
            items=batch.items,
            base=batch.base,
            dose=batch.dose,
            treatments=batch.treatments,
            protocol=self.args.protocol,
            share_prefix=self.args.share_prefix,
            prompts_per_pass=prompts_per_pass,
            seed=self.args.seed,
        )

    def _write(self, batch: Batch, rows: list[Row]) -> None:
        if self._per_pass.size < Job.prompts_per_pass:
            # Last bits depend on what is computed together, so a reader and a later resume must know.
            self._smaller[batch.key] = self._per_pass.size
            self.run.record(prompts_per_pass=self._smaller)
        self.rows.append(batch.key, rows)
