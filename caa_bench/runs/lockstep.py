"""One run on a model that several ranks hold together: rank 0 is the run, the others do what it tells them.

    torchrun --nproc-per-node 2 -m caa_bench compare model=my-model loading.parallel=tensor

Rank 0 alone reads the recipe, checks, holds the run folder and the artifacts, tunes, judges, writes and prints. Batches
and fits it computes on all ranks at once, from the same bytes; the other ranks throw away what comes out, after it was
compared with rank 0's. Imported only where this is asked for.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from caa_bench.behaviors.behavior import Pairs
from caa_bench.errors import UserError
from caa_bench.evaluators.base import Evaluator, Job, Row
from caa_bench.interventions import Intervention
from caa_bench.interventions.fitting import Fitting, current, during
from caa_bench.interventions.readings import keep_readings_of, readings_of, shared_readings
from caa_bench.models import tensor_parallel
from caa_bench.models.memory import free_memory
from caa_bench.models.model import ChatModel
from caa_bench.models.ranks import SETTLING_S, Held, Ranks
from caa_bench.runs.plan import Batch
from caa_bench.runs.replica_process import pickled, unpickled
from caa_bench.storage.files import content_key

if TYPE_CHECKING:
    from caa_bench.runs.artifacts import ArtifactStore
    from caa_bench.runs.replicas import JobOf


@dataclass(frozen=True, kw_only=True)
class Begin:
    """What a rank needs before it is told of a model.

    Args:
        threads: torch's, on which last bits depend on a CPU.
        plugins: files whose classes the run uses.
    """

    threads: int
    plugins: tuple[str, ...]
    settling_s = SETTLING_S

    def follow(self, held: Held) -> str:
        """Take them over."""
        import torch

        from caa_bench.storage.plugins import load_plugin

        torch.set_num_threads(self.threads)
        for plugin in self.plugins:
            load_plugin(plugin)
        return ""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A batch.

    Args:
        work: evaluator and job, as `replica_process.pickled` makes them.
    """

    work: bytes
    settling_s = SETTLING_S

    def follow(self, held: Held) -> str:
        """Its rows, as a key."""
        keep_readings_of(held.chat.model, frozenset())
        evaluator, job = unpickled(self.work, held.known)
        return content_key(evaluator.evaluate(replace(job, chat=held.chat)))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fit.

    Args:
        intervention: pickled, before it is fitted.
        pairs: what it learns from.
        readings: the keys of what rank 0 has read of this model's pairs before, which is not read again.
    """

    intervention: bytes
    pairs: Pairs
    readings: frozenset[str]
    settling_s = SETTLING_S

    def follow(self, held: Held) -> str:
        """What was learned, as a key."""
        intervention = pickle.loads(self.intervention)  # noqa: S301 - of rank 0
        keep_readings_of(held.chat.model, self.readings)
        intervention.fit(held.chat.model, held.chat.tokenizer, self.pairs)
        return _learned(intervention)


class Lockstep:
    """Rank 0's side: in the place of `Replicas`, a batch is computed by all ranks at once.

    Args:
        plugins: files whose classes the run uses.
    """

    def __init__(self, *, plugins: Sequence[str] = ()) -> None:
        self._plugins = tuple(plugins)
        self._known: list[Intervention] = []
        self._ranks: Ranks

    def __enter__(self) -> Self:
        """Find the other ranks; the model is loaded, by all of them, when it is first asked for."""
        import torch

        self._ranks = tensor_parallel.join()
        with self._ranks.together(Begin(threads=torch.get_num_threads(), plugins=self._plugins)):
            return self

    def __exit__(self, *_: object) -> None:
        self._ranks.end()

    def share(self, batches: Sequence[Batch], job_of: JobOf, *, size: int) -> None:
        """What was sent before may have been changed since."""
        self._known.clear()

    def rows(self, batch: Batch, job: Job) -> list[Row]:
        """The rows of a batch."""
        return self.alone(batch.evaluator, job)

    def alone(self, evaluator: Evaluator, job: Job) -> list[Row]:
        """The rows of a job that no plan names, on all ranks as well.

        Raises:
            Exception: what computing it raised on every rank.
            SystemExit: the ranks did not do the same.
        """
        try:
            work = pickled(evaluator, job, self._known)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._known.clear()
            raise UserError(f"loading.parallel: {_unsent(error)}") from error
        with self._ranks.together(Evaluate(work=work)) as came:
            rows = evaluator.evaluate(job)
            came.append(content_key(rows))
        return rows


def fit_on_all_ranks(intervention: Intervention, chat: ChatModel, pairs: Pairs) -> None:
    """`intervention.fit` on every rank at once, from its beginning: a state that was kept is rank 0's alone.

    Raises:
        Exception: what the fit raised on every rank.
        SystemExit: the ranks did not do the same.
    """
    model, outer = chat.model, current()
    try:
        task = Fit(intervention=pickle.dumps(intervention), pairs=pairs, readings=readings_of(model))
        pickle.dumps(pairs)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(f"loading.parallel: {_unsent(error)}") from error
    # nobody stops it in the middle, where the others would wait
    with tensor_parallel.ranks().together(task) as came, during(Fitting(tell=outer.tell)) as inner:
        intervention.fit(model, chat.tokenizer, pairs)
        came.append(_learned(intervention))
    outer.borrowed_s += inner.borrowed_s
    if getattr(intervention, "activations", None) is not None:
        intervention.activations = None  # type: ignore[attr-defined]  # the others' placebos have no such file


def refuse_unfitted(
    store: ArtifactStore, interventions: Sequence[Intervention], pairs: Pairs, *, model_key: Mapping[str, Any]
) -> None:
    """Refuse what has to be fitted in one process (`Intervention.fits_alone`), and was not.

    Raises:
        UserError: one line, which names them all.
    """

    def missing(one: Intervention, own: Pairs) -> list[str]:
        if store.has(one, pairs=own, model_key=model_key):
            return []
        parts = [part for part in one.ingredients(own) if not part.model]
        inside = [label for part in parts for label in missing(part.intervention, part.pairs)]
        return inside or ([one.label] if one.fits_alone and not parts else [])

    found = dict.fromkeys(label for one in interventions if one.trains for label in missing(one, pairs))
    if found:
        raise UserError(
            f"loading.parallel: {', '.join(found)} cannot be trained in slices and is not in {store.folder}; fit it "
            "first in one process: caa-bench fit with the same settings, without torchrun and loading.parallel"
        )


def follow() -> int:
    """The whole life of a rank behind the first: do what it tells until it is done. Prints nothing.

    Returns:
        The exit status.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.disable(logging.CRITICAL)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as long as the process
    own = tensor_parallel.join()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # rank 0 decides what is finished
    held = Held()
    try:
        with shared_readings():
            while (task := own.told()) is not None:
                try:
                    came = task.follow(held)
                except Exception as error:
                    own.settle(task, error=error)
                    free_memory()
                else:
                    own.settle(task, came=came)
    except RuntimeError:  # rank 0 has ended, and torchrun says how
        return 1
    return 0


def _learned(intervention: Intervention) -> str:
    """A key of all tensors that a fit left in its intervention."""
    import hashlib

    import torch

    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                add(f"{name}.{key}", value[key])

    add("", vars(intervention))
    return digest.hexdigest()


def _unsent(error: Exception) -> str:
    return f"an arm cannot be sent to the other ranks ({error}); define its class at the top of a module"
