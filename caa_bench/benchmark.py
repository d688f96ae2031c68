"""READ FIRST. fit -> tune -> compare -> report: the same pairs, the same items, every intervention on every base.

    benchmark = Benchmark("tiny", behavior="refusal", interventions=[SystemPrompt(...), LoraSFT(...), CAA()])
    benchmark.compare().report()

`fit` learns each intervention from the same training pairs and keeps it as an artifact; `tune` finds each vector's
layer and dose on the selection split where nobody has; `compare` does both and measures every cell in fixed batches of
append-only rows, so that a killed run continues where it stopped; `report` computes every table from the rows alone.
None of them repeats work that is already on disk.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.behaviors.choice import language_warning
from caa_bench.callbacks import Callback, Callbacks
from caa_bench.errors import UserError, all_made
from caa_bench.evaluators import Evaluator
from caa_bench.evaluators.base import Aftermath
from caa_bench.interventions import Intervention, several_fits
from caa_bench.interventions.building import on_top
from caa_bench.interventions.readings import shared_readings
from caa_bench.models.loaded import LoadedModel, in_use
from caa_bench.models.model import ChatModel, is_embedded
from caa_bench.recipe import BenchmarkArguments, Recipe
from caa_bench.runs.artifacts import ArtifactStore
from caa_bench.runs.checks import RunChecks
from caa_bench.runs.described import Given, behavior_of, chat_of, recipe_of, unnamed_code, with_data
from caa_bench.runs.facts import run_facts
from caa_bench.runs.fits import Fits
from caa_bench.runs.folder import RowStore, RunFolder, add_warnings
from caa_bench.runs.grid import bases_of
from caa_bench.runs.measure import Measurement, what_follows
from caa_bench.runs.plan import Plan, make_plan
from caa_bench.runs.run_names import run_folder
from caa_bench.runs.signals import Stop, finish_what_runs
from caa_bench.runs.test_splits import opening
from caa_bench.runs.tuning import tuned
from caa_bench.runs.tuning_arms import settled_bases
from caa_bench.runs.tuning_grid import Search, known_settings, settled
from caa_bench.runs.tuning_record import chosen_bases, chosen_settings
from caa_bench.runs.tuning_rounds import Bench
from caa_bench.storage.files import content_key
from caa_bench.tracking import trackers
from caa_bench.tracking.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from caa_bench.report import Report
    from caa_bench.runs.lockstep import Lockstep
    from caa_bench.runs.replicas import Replicas

logger = logging.getLogger(__name__)


class Benchmark:
    """One model, one behavior, and the interventions to compare on it.

    Args:
        model: a name in `configs/models/`, a local folder, a hub name, a `ChatModel`, or a loaded model of
            transformers, which is left as it was.
        tokenizer: of a loaded model.
        behavior: a name in `configs/behaviors/`, a folder, a `Behavior`, or items in the model-written-evals form: a
            list of dictionaries or a `datasets.Dataset` (see `behaviors/records.py`).
        args: how to run; `BenchmarkArguments()` where not given.
        interventions: objects, or names as in a recipe. Where `args.bases` and `args.vectors` are left at their
            defaults, each is what its `role` says: a base, or a vector with placebos on top of every base. What `args`
            name beside them is built as a recipe builds it.
        evaluators: what is measured, objects or names; those that `args.evaluators` names where not given.
        callbacks: told what happens, beside the progress and the trackers of `args.report_to`; their mistakes never
            harm the results.
        folder: the run folder; None: one under `args.output_dir`, named after what is run.
        progress: False prints nothing while it runs.
        recipe: what describes the run; made from the other arguments where not given.

    Attributes:
        settings: what the run folder is bound to, in the shape of a recipe.
        fits: what is fitted (`artifacts`) and what could not be (`unfit`); the comparison goes on without the latter.
        search: how finely `tune` searches.
        tuning: what `tune` found; empty before.
        replicas: copies of the model that share the batches (`runs/replicas.py`), where there are any.

    Raises:
        UserError: what a recipe of the same run would be refused for.

    Example:
        >>> from caa_bench import CAA, Benchmark, BenchmarkArguments
        >>> args = BenchmarkArguments(bases=("none", "system_prompt_positive"), limit=50, report_to=())
        >>> benchmark = Benchmark("tiny", behavior="refusal", args=args, interventions=[CAA()])
        >>> benchmark.compare().report().stacking  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any = "tiny",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        behavior: Any = "refusal",
        args: BenchmarkArguments | None = None,
        interventions: Sequence[Intervention | str] = (),
        evaluators: Sequence[Evaluator | str] = (),
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        progress: bool = True,
        recipe: Recipe | None = None,
    ) -> None:
        self.chat = chat_of(model, tokenizer)
        asked = with_data(args or BenchmarkArguments(), embedded=self.chat.embedded, behavior=behavior)
        self.behavior = behavior_of(behavior, asked)
        given = Given(interventions=interventions, evaluators=evaluators)
        self.recipe = recipe or recipe_of(given, args=asked, chat=self.chat, behavior=self.behavior)
        self.args = self.recipe.args
        made = self.recipe.interventions(self.behavior, given=given.made)
        self.interventions = several_fits([one for one in made if one.name != "none"], count=self.args.fits)
        self.vectors = on_top(self.interventions, self.args.vectors)
        self.bases = bases_of(self.args.bases, interventions=self.interventions)
        self.evaluators = self.recipe.evaluators(given=given.measuring)
        shown: list[Callback] = [Progress()] if progress else []
        self.callbacks = Callbacks([*shown, *callbacks, *trackers(self.args.report_to, project=self.args.project)])
        self.settings = self.recipe.flat()
        self.folder = Path(folder) if folder else self._folder(unnamed_code(given))
        self.store = ArtifactStore(Path(self.args.output_dir) / "artifacts")
        self.checks = RunChecks(
            args=self.args,
            chat=self.chat,
            behavior=self.behavior,
            interventions=self.interventions,
            vectors=self.vectors,
            bases=self.bases,
            evaluators=self.evaluators,
            arms=self.recipe.arms,
        )
        self.fits = Fits(self.store, callbacks=self.callbacks, loaded=self.checks.ready)
        self._checked = False
        self.search = Search()
        self.tuning: dict[str, Any] = {}
        self.replicas: Replicas | Lockstep | None = None

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        *,
        chat: ChatModel | None = None,
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        progress: bool = True,
        check: bool = True,
    ) -> Benchmark:
        """The benchmark that a recipe describes, everything checked that can be without loading the model.

        Args:
            chat: the recipe's model, where another behavior's benchmark has it already; loaded once for all.
            check: False leaves the checks of data and prompts to `compare`, where one alike passed them already.

        Raises:
            UserError: one line a mistake.
        """
        try:
            embedded = is_embedded(recipe.model) if chat is None else chat.embedded
            recipe = replace(recipe, args=with_data(recipe.args, embedded=embedded, behavior=recipe.behavior))
            behavior, found, _ = all_made(
                lambda: behavior_of(recipe.behavior, recipe.args),
                lambda: chat or ChatModel.find(recipe.model, changes=dict(recipe.loading)),
                recipe.evaluators,
            )
            benchmark = cls(
                found,
                behavior=behavior,
                args=recipe.args,
                callbacks=callbacks,
                folder=folder,
                progress=progress,
                recipe=recipe,
            )
            if check:
                benchmark.check()
            elif mistakes := benchmark.args.mistakes():
                raise UserError(*mistakes)
        except UserError as error:
            raise UserError(*map(recipe.located, error.lines)) from None
        return benchmark

    def __repr__(self) -> str:
        """What is compared, in a line."""
        bases, vectors = ([one.key for one in many] for many in (self.bases, self.vectors))
        return (
            f"Benchmark({self.behavior.id!r} on {self.chat.name!r}: vectors {', '.join(vectors) or 'none'} on top of "
            f"{', '.join(bases)}; {self.args.split} split; {self.folder})"
        )

    def check(self) -> None:
        """Everything that can be found wrong before any weights are loaded.

        Raises:
            UserError: one line a mistake.
        """
        self.checks.refuse()
        if self.chat.loading.parallel != "none":
            from caa_bench.runs.lockstep import refuse_unfitted

            refuse_unfitted(self.store, self.interventions, self.behavior.pairs(), model_key=self.model_key)
        self._checked = True

    def fit(self) -> Self:
        """Fit every intervention on the same training pairs, or take its artifact where one is kept.

        One that cannot be fitted is logged with its traceback, noted in `fits.unfit`, and does not stop the others.

        Raises:
            UserError: the model cannot be loaded, a prompt cannot be made, an artifact is damaged, memory ran out.
            SystemExit: stopped by Ctrl-C (130) or SIGTERM (143) after the step at hand; a later fit goes on from there.
        """
        if not self._checked:
            self.check()
        with finish_what_runs() as stop, in_use(self.chat), shared_readings():
            self.fits.fit(self.interventions, self.behavior.pairs(), model_key=self.model_key, stop=stop)
        return self

    def plan(self) -> Plan:
        """Every cell and batch of the comparison; fits first, since artifacts are part of the keys."""
        self.fit()
        vectors = self.settled_vectors()
        return make_plan(
            args=self.args,
            model=self.chat.name,
            model_key=self.model_key,
            layers=self.chat.loaded_layers(),
            behavior=self.behavior,
            bases=self.fits.possible(settled_bases(self.bases, chosen_bases(self.tuning), vectors=vectors)),
            vectors=self.fits.possible(vectors),
            evaluators=self.evaluators,
            learned=self.fits.learned,
        )

    def settled_vectors(self) -> list[Intervention]:
        """The vectors at the layer and doses that tuning, or the model's config, found for them."""
        known = known_settings(self.vectors, args=self.args, loading=self.chat.loading, behavior=self.behavior.id)
        return settled(self.vectors, known | chosen_settings(self.tuning))

    def tune(self) -> Self:
        """Find each vector's layer and dose on the selection split, as `compare` does first, and measure nothing else.

        Raises:
            UserError: what `check` or `fit` find, or a batch of the search failed.
            SystemExit: stopped by Ctrl-C (130) or SIGTERM (143); run again to continue.
        """
        self.check()
        with RunFolder(self.folder, recipe=self.settings) as run, finish_what_runs() as stop, in_use(self.chat):
            self._tune(run, stop)
        return self

    def compare(self) -> Self:
        """Measure every cell that is not measured yet. A batch that fails is tried again by the next `compare`.

        Raises:
            UserError: what `check` or `fit` find, or the folder is in use, holds another recipe, or rows of another
                model or other data.
            SystemExit: stopped by Ctrl-C (130) or SIGTERM (143) after the batch at hand; run again to continue.
        """
        self.check()
        for line in language_warning(self.behavior, embedded=self.chat.embedded):
            logger.warning(line)
        with RunFolder(self.folder, recipe=self.settings) as run, finish_what_runs() as stop, in_use(self.chat):
            self.callbacks.tell("on_begin", settings=run.manifest["recipe"], folder=self.folder)
            self._tune(run, stop)
            plan, rows = self.plan(), RowStore(run.rows_path)
            keys = [batch.key for batch in plan.batches]
            rows.refuse_strangers(keys)
            self._record(run, plan, keys)
            waiting = [batch for batch in plan.batches if batch.key not in rows.done]
            self.callbacks.tell("on_compare_begin", plan=plan, waiting=waiting, folder=self.folder)
            self.callbacks.tell("on_costs", lines=self.costs(Counter(cell.evaluator for cell in plan.cells)))
            chat = self.checks.ready() if waiting else self.chat
            measurement = Measurement(
                chat, args=self.args, run=run, rows=rows, callbacks=self.callbacks, replicas=self.replicas
            )
            failed = measurement.of(waiting, stop=stop)
            rows.rewrite_in_order(keys)
            work = Aftermath(chat=self.chat, behavior=self.behavior, run=run, rows=rows, stop=stop)
            missing = what_follows(self.evaluators, work)
            run.set_status("error" if failed or missing or self.fits.unfit else "success")
            self.callbacks.tell("on_compare_end", folder=self.folder, failed=failed)
            stop.leave_if_asked()
        return self

    def report(self) -> Report:
        """Tables and figures from the rows in the run folder: a pure function of them, no model needed."""
        from caa_bench.report import write_report

        report = write_report(self.folder)
        self.callbacks.tell("on_report", report=report)
        if self.callbacks.mistakes:
            add_warnings(self.folder, self.callbacks.mistakes, recipe=self.settings)
            report = write_report(self.folder)
        return report

    def costs(self, cells: Mapping[str, int]) -> list[str]:
        """What the evaluators say it costs beside forwards over their prompts, for so many cells of each by name."""
        said = []
        for one in self.evaluators:
            items = len(one.items(self.behavior, split=self.args.split)[: self.args.limit])
            said += one.costs(self.behavior, self.chat, items=items, cells=cells.get(one.name, 0))
        return said

    def _record(self, run: RunFolder, plan: Plan, keys: list[str]) -> None:
        """What the manifest says of the comparison before its first batch; the test split is opened here."""
        run.record(
            **run_facts(
                plan,
                args=self.args,
                behavior=self.behavior,
                evaluators=self.evaluators,
                interventions=self.interventions,
                model_key=self.model_key,
                computes_in=self.chat.computes_in,
                layers=self.chat.loaded_layers(),
                artifacts=self.fits.artifacts,
                unfit=self.fits.unfit,
                embedded=self.chat.embedded,
            )
        )
        if self.args.split == "test":
            plan_key, items = content_key(keys), run.manifest["facts"]["items"]
            run.open_test(plan_key)
            split = content_key([self.model_key, sorted(items.values())])
            output = Path(self.args.output_dir)
            run.record(test_opening=opening(output, split=split, plan=plan_key, run=self.folder.name))

    def _tune(self, run: RunFolder, stop: Stop) -> None:
        """The search, where the recipe and the model's config leave something to be searched for."""
        self.fit()
        bench = Bench(
            args=self.args,
            chat=self.chat,
            loaded=self.checks.ready,
            model_key=self.model_key,
            layers=self.chat.loaded_layers(),
            behavior=self.behavior,
            evaluators=self.evaluators,
            learned=self.fits.learned,
            run=run,
            callbacks=self.callbacks,
            stop=stop,
            replicas=self.replicas,
        )
        vectors, bases = self.fits.possible(self.vectors), self.fits.possible(self.bases)
        self.tuning = tuned(bench, vectors, bases, loading=self.chat.loading, search=self.search)

    @cached_property
    def model_key(self) -> dict[str, Any]:
        """What identifies the model; a large folder takes a while to hash, so once."""
        return self.chat.fingerprint()

    def _folder(self, code: Mapping[str, str]) -> Path:
        """Under `output_dir`, named after the run; `code` is of classes that no plugin names."""
        loaded = {"model": self.model_key} if isinstance(self.chat, LoadedModel) else {}
        return run_folder(
            self.args.output_dir,
            recipe=self.recipe.name,
            behavior=self.behavior,
            model=self.chat.name,
            settings=self.settings,
            beside={**code, **loaded},
        )
