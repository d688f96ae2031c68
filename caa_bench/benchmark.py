"""READ FIRST. fit -> compare -> report: the same pairs, the same items, every intervention on top of every base.

    benchmark = Benchmark("tiny", behavior="refusal", interventions=[SystemPrompt(...), LoraSFT(...), CAA()])
    benchmark.compare().report()

`fit` learns each intervention from the same training pairs and keeps it as an artifact; `compare` measures every cell
in fixed batches of append-only rows, so that a killed run continues where it stopped; `report` computes every table
from the rows alone. None of them repeats work that is already on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.artifacts import Artifact, ArtifactStore
from caa_bench.behavior import Behavior, load_behavior
from caa_bench.callbacks import Callback, Callbacks
from caa_bench.errors import UserError
from caa_bench.evaluators import AnswerProbability, Evaluator, Job
from caa_bench.files import content_key
from caa_bench.interventions import Intervention, Stack, Unchanged
from caa_bench.model import ChatModel
from caa_bench.plan import Batch, Plan, make_plan
from caa_bench.recipe import BenchmarkArguments, Recipe
from caa_bench.results import RowStore, RunFolder
from caa_bench.signals import Stop, finish_the_batch

if TYPE_CHECKING:
    from caa_bench.report import Report


class Benchmark:
    """One model, one behavior, and the interventions to compare on it.

    Args:
        model: a name in `configs/models/`, a local folder, a hub name, or a `ChatModel`.
        behavior: a name in `configs/behaviors/`, a folder, or a `Behavior`.
        args: how to run; `BenchmarkArguments()` where not given.
        interventions: those that `args.bases` and `args.vectors` name; with `args.bases` left at its default, every
            intervention that is no vector is a base of its own.
        evaluators: what is measured; the answer probability where not given.
        callbacks: told what happens (progress, tracking); their mistakes never harm the results.
        folder: the run folder; None: one under `args.output_dir`, named after what is run.
        settings: what the run folder is bound to; the recipe's, or made from the arguments.
    """

    def __init__(
        self,
        model: str | ChatModel = "tiny",
        *,
        behavior: str | Behavior = "refusal",
        args: BenchmarkArguments | None = None,
        interventions: Sequence[Intervention] = (),
        evaluators: Sequence[Evaluator] = (),
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.args = args or BenchmarkArguments()
        self.chat = ChatModel.find(model) if isinstance(model, str) else model
        self.behavior = behavior if isinstance(behavior, Behavior) else behavior_of(behavior, self.args)
        self.interventions = [item for item in interventions if not isinstance(item, Unchanged)]
        self.vectors = [item for item in self.interventions if item.label in self.args.vectors]
        self.bases = self._bases()
        self.evaluators = list(evaluators) or [AnswerProbability()]
        self.callbacks = Callbacks(callbacks)
        self.settings = settings or self._settings()
        self.folder = Path(folder) if folder else Path(self.args.output_dir) / self._name("run")
        self.artifacts = ArtifactStore(Path(self.args.output_dir) / "artifacts")
        self._fitted: dict[str, Artifact] = {}

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, *, callbacks: Sequence[Callback] = (), folder: str | Path | None = None
    ) -> Benchmark:
        """The benchmark that a recipe describes, everything checked that can be without loading the model.

        Raises:
            UserError: one line a mistake.
        """
        behavior = behavior_of(recipe.behavior, recipe.args)
        benchmark = cls(
            ChatModel.find(recipe.model, changes=dict(recipe.loading)),
            behavior=behavior,
            args=recipe.args,
            interventions=recipe.interventions(behavior),
            evaluators=recipe.evaluators(),
            callbacks=callbacks,
            settings=recipe.flat(),
        )
        benchmark.folder = Path(folder) if folder else Path(recipe.args.output_dir) / benchmark._name(recipe.name)
        benchmark.check()
        return benchmark

    def check(self) -> None:
        """Everything that can be found wrong before any weights are loaded.

        Raises:
            UserError: one line a mistake.
        """
        mistakes = self.chat.check()
        if (layers := self.chat.layers) is not None:
            mistakes += [line for item in self.interventions for line in item.check(layers)]
        if mistakes:
            raise UserError(*mistakes)

    def fit(self) -> Self:
        """Fit every intervention on the same training pairs, or take its artifact where one is kept."""
        pairs = self.behavior.pairs()
        for intervention in self.interventions:
            if intervention.trains and intervention.label not in self._fitted:
                self.callbacks.on_fit_begin(intervention=intervention, pairs=len(pairs))
                artifact = self.artifacts.fitted(intervention, chat=self.chat, pairs=pairs)
                self._fitted[intervention.label] = artifact
                self.callbacks.on_fit_end(intervention=intervention, artifact=artifact)
        return self

    def plan(self) -> Plan:
        """Every cell and batch of the comparison; fits first, since artifacts are part of the keys."""
        self.fit()
        return make_plan(
            args=self.args,
            model=self.chat.name,
            model_key=self.chat.fingerprint(),
            layers=self.chat.loaded_layers(),
            behavior=self.behavior,
            bases=self.bases,
            vectors=self.vectors,
            evaluators=self.evaluators,
            learned={label: artifact.checksum for label, artifact in self._fitted.items()},
        )

    def compare(self) -> Self:
        """Measure every cell that is not measured yet.

        Raises:
            UserError: the folder is in use or holds another recipe.
            SystemExit: stopped by Ctrl-C (130) or SIGTERM (143) after the batch at hand; run again to continue.
        """
        with RunFolder(self.folder, recipe=self.settings) as run, finish_the_batch() as stop:
            plan = self.plan()
            run.record(**self._facts(plan))
            keys = [batch.key for batch in plan.batches]
            if self.args.split == "test":
                run.open_test(content_key(keys))
            rows = RowStore(run.rows_path)
            waiting = [batch for batch in plan.batches if batch.key not in rows.done]
            self.callbacks.on_compare_begin(plan=plan, waiting=waiting, folder=self.folder)
            failed = [batch for batch in waiting if not self._measure(batch, rows, stop=stop)]
            rows.rewrite_in_order(keys)
            run.set_status("error" if failed else "success")
        self.callbacks.on_compare_end(folder=self.folder, failed=failed)
        return self

    def report(self) -> Report:
        """Tables and figures from the rows in the run folder: a pure function of them, no model needed."""
        from caa_bench.report import write_report

        report = write_report(self.folder)
        self.callbacks.on_report(report=report)
        return report

    def _measure(self, batch: Batch, store: RowStore, *, stop: Stop) -> bool:
        """Compute and write one batch; False where it failed, so that the others still run."""
        stop.between_batches()
        job = Job(
            chat=self.chat,
            items=batch.items,
            base=batch.base,
            dose=batch.dose,
            treatments=batch.treatments,
            protocol=self.args.protocol,
            share_prefix=self.args.share_prefix,
        )
        try:
            rows = batch.evaluator.evaluate(job)
        except Exception as error:
            self.callbacks.on_batch_error(batch=batch, error=error)
            return False
        store.append(batch.key, rows)
        self.callbacks.on_batch_end(batch=batch, rows=rows)
        return True

    def _bases(self) -> list[Intervention]:
        """`none` first, then what `args.bases` names; several joined by `+` become a stack."""
        by_label = {item.label: item for item in self.interventions}
        named = [name for name in self.args.bases if name != "none"]
        if not named:
            return [Unchanged(), *(item for item in self.interventions if item not in self.vectors)]
        missing = sorted({part for name in named for part in name.split("+") if part not in by_label})
        if missing:
            raise UserError(f"bases: {', '.join(missing)} is not among the interventions; add it or take it out")
        parts = [[by_label[part] for part in name.split("+")] for name in named]
        return [Unchanged(), *(many[0] if len(many) == 1 else Stack(*many) for many in parts)]

    def _settings(self) -> dict[str, Any]:
        """What decides the results of a benchmark that was built without a recipe."""
        return {
            "model": self.chat.name,
            "behavior": self.behavior.id,
            "interventions": [item.settings() | asdict(item.config) for item in self.interventions],
        } | {
            key: value for key, value in asdict(self.args).items() if key not in ("report_to", "project", "output_dir")
        }

    def _name(self, recipe: str) -> str:
        """`<recipe>/<behavior>-<model>-<key>`: another setting is another folder, the same one continues."""
        return f"{recipe}/{self.behavior.id}-{Path(self.chat.name).name}-{content_key(self.settings)[:8]}"

    def _facts(self, plan: Plan) -> dict[str, Any]:
        """What the report needs to know beside the rows."""
        return {
            "cells": [asdict(cell) for cell in plan.cells],
            "batches": [batch.key for batch in plan.batches],
            "behavior": {"id": self.behavior.id, "title": self.behavior.title, "matching": self.behavior.matching},
            "layers": asdict(self.chat.loaded_layers()),
            "warnings": list(self.behavior.warnings),
            "artifacts": {label: str(artifact.folder) for label, artifact in self._fitted.items()},
        }


def behavior_of(name: str, args: BenchmarkArguments) -> Behavior:
    """Load a behavior with the data that `args` name."""
    return load_behavior(
        name,
        data=args.data,
        data_dir=None if args.data_dir is None else Path(args.data_dir),
        protocol=args.protocol,
        seed=args.seed,
    )
