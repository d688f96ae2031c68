"""A search's rounds: interventions to try in, cells and item scores out, each round with a rows file of its own.

Everything under `tuning/` in the run folder, on the selection split; a round that was stopped goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.callbacks import Callback, Callbacks
from caa_bench.errors import UserError
from caa_bench.evaluators import AnswerProbability, Evaluator
from caa_bench.interventions import Intervention, Unchanged
from caa_bench.models.layers import Layers
from caa_bench.recipe import BenchmarkArguments
from caa_bench.runs.folder import RowStore, RunFolder
from caa_bench.runs.measure import Measurement
from caa_bench.runs.plan import Batch, Cell, Plan, make_plan
from caa_bench.runs.rows import frame_of
from caa_bench.runs.signals import Stop
from caa_bench.storage.files import safe_name

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.evaluators.base import Row
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.lockstep import Lockstep
    from caa_bench.runs.replicas import Replicas

FOLDER = "tuning"
CAPABILITY = "capability"
BATCH = 8
"""Items computed together, at most: 16 prompts, what one pass of the engine takes. With a hundred cells a batch of 32
is minutes on a CPU, without a sign of life and lost where the run is killed."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a search runs on: a benchmark whose interventions are fitted.

    Args:
        args: how to run; split and items are the search's own.
        loaded: gives the model; called only where something is to be measured.
        learned: checksum of each fitted intervention's artifact, by key.
        run: the open run folder.
        replicas: copies of the model that share the batches, where there are any.
    """

    args: BenchmarkArguments
    chat: ChatModel
    loaded: Callable[[], ChatModel]
    model_key: Mapping[str, Any]
    layers: Layers
    behavior: Behavior
    evaluators: Sequence[Evaluator]
    learned: Mapping[str, str]
    run: RunFolder
    callbacks: Callbacks
    stop: Stop
    replicas: Replicas | Lockstep | None = None


class Rounds:
    """Measures round by round and remembers what was measured.

    Args:
        bench: what it runs on.
        capability_items: questions of a round of capability, at most.

    Attributes:
        cells: every cell measured so far, by key.
        costs: the run's capability evaluator with the search's own doses; None where the run measures none.
        twins: cell of capability -> the cell of the behavior with the same condition.
    """

    def __init__(self, bench: Bench, *, capability_items: int) -> None:
        self.bench = bench
        self.cells: dict[str, Cell] = {}
        self.twins: dict[str, str] = {}
        self._rows: dict[str, list[Row]] = {}
        self._capability_items = capability_items
        costs = next((one for one in bench.evaluators if one.name == CAPABILITY), None)
        self.costs = None if costs is None else _for_search(costs)

    def measure(
        self,
        name: str,
        vectors: Sequence[Intervention],
        *,
        bases: Sequence[Intervention] = (),
        evaluator: Evaluator | None = None,
    ) -> Plan:
        """One round: plan it, measure what is missing, keep its rows."""
        bench = self.bench
        plan = self._plan(vectors, bases, evaluator or AnswerProbability())
        rows = RowStore(self._folder() / f"{safe_name(name)}.jsonl")
        keys = [batch.key for batch in plan.batches]
        rows.refuse_strangers(keys)
        waiting = [batch for batch in plan.batches if batch.key not in rows.done]
        bench.callbacks.tell("on_tuning_begin", name=name, plan=plan, waiting=waiting)
        if waiting:
            relay = Callbacks([_Relay(bench.callbacks)])
            measurement = Measurement(
                bench.loaded(), args=bench.args, run=bench.run, rows=rows, callbacks=relay, replicas=bench.replicas
            )
            if failed := measurement.of(waiting, stop=bench.stop):
                raise UserError(
                    f"tuning: {len(failed)} of {len(plan.batches)} batches of {name} failed, so the candidates were "
                    "not asked the same items (the reason stands above); mend it, or set tune=off"
                )
        rows.rewrite_in_order(keys)
        self._keep(plan, rows)
        return plan

    def _keep(self, plan: Plan, rows: RowStore) -> None:
        """Remember a round's cells and rows. A cell of capability is the twin of the one with its condition."""
        self.cells |= {cell.key: cell for cell in plan.cells}
        own: dict[str, list[Row]] = {cell.key: [] for cell in plan.cells}
        for row in rows.rows():
            own[row["cell"]].append(row)
        self._rows |= own
        places = {_condition(cell): cell.key for cell in self.cells.values() if cell.evaluator != CAPABILITY}
        for cell in plan.cells:
            if cell.evaluator == CAPABILITY and not (cell.base != "none" and not cell.vector):
                self.twins[cell.key] = places[_condition(cell)]

    def _plan(self, vectors: Sequence[Intervention], bases: Sequence[Intervention], evaluator: Evaluator) -> Plan:
        bench = self.bench
        limit = bench.args.limit
        if evaluator.name == CAPABILITY:
            limit = min(limit or self._capability_items, self._capability_items)
        return make_plan(
            args=replace(bench.args, split="selection", limit=limit, batch_size=min(bench.args.batch_size, BATCH)),
            model=bench.chat.name,
            model_key=bench.model_key,
            layers=bench.layers,
            behavior=bench.behavior,
            bases=[Unchanged(), *bases],
            vectors=vectors,
            evaluators=[evaluator],
            learned=bench.learned,
        )

    def _folder(self) -> Path:
        folder = self.bench.run.path / FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def scores(self, evaluator: str) -> pd.DataFrame | None:
        """Item scores of everything measured so far by one evaluator, under the cells of the behavior; None without."""
        from caa_bench.analysis.items import item_scores

        own = [row for key, rows in self._rows.items() if self.cells[key].evaluator == evaluator for row in rows]
        if not own:
            return None
        scores = item_scores(frame_of(own), protocol=self.bench.args.protocol)
        return scores.assign(cell=scores["cell"].map(lambda key: self.twins.get(key, key)))

    @property
    def unchanged(self) -> str:
        """The cell of the unchanged model."""
        cells = self.cells.values()
        return next(one.key for one in cells if one.base == "none" and not one.vector and one.evaluator != CAPABILITY)


class _Relay(Callback):
    """Tells of a search's batches under names of their own: they are no part of the comparison."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks

    def on_batch_end(self, *, batch: Batch, rows: Sequence[Row]) -> None:
        self._callbacks.tell("on_tuning_batch", batch=batch)

    def on_batch_error(self, *, batch: Batch, error: Exception) -> None:
        self._callbacks.tell("on_tuning_batch", batch=batch)


def _condition(cell: Cell) -> tuple[Any, ...]:
    return cell.base, cell.base_dose, cell.vector, cell.layer, cell.multiplier


def _for_search(evaluator: Evaluator) -> Evaluator:
    """The evaluator with the search's own bases and doses."""
    made = copy.copy(evaluator)
    made.config = replace(evaluator.config, bases=None, multipliers=None)
    return made
