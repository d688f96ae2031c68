"""Finds the layer and dose of each vector on the selection split, before the test split is opened.

fitted vectors -> rounds of cells (`tuning_rounds`) -> what was tried and chosen, as JSON for the manifest and
tuning.csv. A killed search goes on where it stopped and ends in the same bytes: every round is a pure function of the
rows before it. It never reads the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from caa_bench.evaluators import AnswerProbability
from caa_bench.interventions import Intervention
from caa_bench.models.loading import Loading
from caa_bench.runs.tuning_arms import Arm, BaseArm, VectorArm
from caa_bench.runs.tuning_grid import Search, first_fits, to_tune
from caa_bench.runs.tuning_items import search_items
from caa_bench.runs.tuning_record import chosen_settings, record_of, write_tuning
from caa_bench.runs.tuning_rounds import CAPABILITY, Bench, Rounds


class Tuning:
    """The search of one benchmark.

    Args:
        bench: what it runs on.
        search: how finely.
    """

    def __init__(self, bench: Bench, *, search: Search | None = None) -> None:
        self.bench = bench
        self.search = search or Search()
        self.rounds = Rounds(bench, capability_items=self.search.capability_items)

    def run(self, vectors: Sequence[Intervention], bases: Sequence[Intervention] = ()) -> dict[str, Any]:
        """Search, and say what was tried and chosen (`tuning_record.record_of`), as JSON.

        Args:
            vectors: those to be tuned, fitted; of several fits the first is searched with.
            bases: with `tune: all`, the bases whose wording or scale is chosen.

        Raises:
            UserError: a batch failed, so that the candidates were not all asked the same items.
            SystemExit: a stop was asked for; what is measured is on the disk.
        """
        searched = [VectorArm(one, self.bench.layers, self.search) for one in first_fits(vectors)]
        arms: list[Arm] = list(searched)
        if searched:
            self.rounds.measure("layers", [made for arm in searched for made in arm.first()])
            self._weigh(arms)
            self.rounds.measure("doses", [made for arm in searched for made in arm.second()])
            self._weigh(arms)
            self._capability(searched)
        for base in bases:
            arms.append(self._base(base))
        self._weigh(arms)
        return record_of(
            arms,
            scores=self.rounds.scores(AnswerProbability.name),
            capability=self.rounds.scores(CAPABILITY),
            unchanged=self.rounds.unchanged,
        )

    def _capability(self, arms: Sequence[VectorArm]) -> None:
        """What the best candidates of each vector cost, where the run measures that."""
        if self.rounds.costs is None:
            return
        self.rounds.measure(CAPABILITY, [made for arm in arms for made in arm.shortlist()], evaluator=self.rounds.costs)
        self._weigh(arms)

    def _base(self, base: Intervention) -> BaseArm:
        """A base's wordings or scales, each measured alone on the plain model."""
        arm = BaseArm(base, search=self.search)
        plan = self.rounds.measure(arm.label, [], bases=arm.first())
        arm.measured(plan.cells[1:])
        if self.rounds.costs is not None:
            costs = self.rounds.measure(f"{arm.label}-{CAPABILITY}", [], bases=arm.first(), evaluator=self.rounds.costs)
            self.rounds.twins |= {cost.key: cell.key for cost, cell in zip(costs.cells, plan.cells, strict=True)}
        return arm

    def _weigh(self, arms: Sequence[Arm]) -> None:
        behavior, capability = (self.rounds.scores(name) for name in (AnswerProbability.name, CAPABILITY))
        for arm in arms:
            arm.weigh(
                list(self.rounds.cells.values()),
                behavior,
                capability=capability,
                unchanged=self.rounds.unchanged,
                seed=self.bench.args.seed,
            )


def tuned(
    bench: Bench,
    vectors: Sequence[Intervention],
    bases: Sequence[Intervention],
    *,
    loading: Loading,
    search: Search | None = None,
) -> dict[str, Any]:
    """The whole search of a benchmark, kept in the manifest (`facts["tuning"]`) and in tuning.csv.

    Args:
        vectors / bases: everything that the run measures, fitted.
        loading: the model's config.

    Returns:
        The record (`tuning_record.record_of`); `untuned`, a sentence, where nothing was searched for; empty where that
        needs no word. `settled`: label -> layer and multiplier of each vector that an earlier or this search settled.
    """
    wanted = to_tune(vectors, args=bench.args, loading=loading, behavior=bench.behavior)
    parts = first_fits([part for base in bases for part in getattr(base, "parts", (base,))])
    directed = list(filter(BaseArm.can_be_tuned, parts))
    searched = directed if bench.args.tune == "all" else []
    record: dict[str, Any] = {"untuned": wanted.why} if wanted.why else {}
    if wanted.vectors or searched:
        items = search_items(bench.behavior, limit=bench.args.limit)
        record = Tuning(replace(bench, behavior=items.behavior), search=search).run(wanted.vectors, searched)
        record |= items.facts()
        record["not_tuned"] = [one.label for one in directed if one not in searched]
        write_tuning(bench.run.path, record)
    if record or wanted.known:
        record["settled"] = {**wanted.known, **chosen_settings(record)}
        bench.run.record(tuning=record)
        bench.callbacks.tell("on_tuning_end", record=record)
    return record
