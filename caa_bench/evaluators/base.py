"""What an evaluator is: items of a behavior and a base with treatments on top -> rows.

An evaluator never asks which intervention it measures: `Job.passes` hands it treatments that are already attached, or
edits that the engine runs as rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from caa_bench.behaviors.items import variants
from caa_bench.config.values import configured
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.storage.registry import code_key

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.behaviors.items import Protocol
    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel
    from caa_bench.runs.folder import RowStore, RunFolder
    from caa_bench.runs.signals import Stop


Row = dict[str, Any]
"""One measurement, as results.RowStore keeps it."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """One intervention at one dose on top of a base; the row key of a cell.

    Args:
        cell: the cell's key.
        intervention: None for the base alone.
        condition: its dose.
    """

    cell: str
    intervention: Intervention | None = None
    condition: Condition = field(default_factory=Condition)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One batch of work: some items under one base and every treatment on top of it.

    Args:
        chat: the model.
        items: behavior items of the evaluator's own kind.
        base / dose: what stands below, and how strong.
        treatments: what goes on top; computed together.
        protocol: `default` or `caa`.
        share_prefix: False recomputes every prompt in full.
        prompts_per_pass: at most so many prompts in one forward pass.
        seed: of whatever is drawn at random.
    """

    chat: ChatModel
    items: Sequence[Any]
    base: Intervention
    dose: Condition
    treatments: Sequence[Treatment]
    protocol: Protocol = "default"
    share_prefix: bool = True
    prompts_per_pass: int = 16
    seed: int = 0

    def measure(self, rows_of: Callable[[Pass], list[Row]]) -> list[Row]:
        """Rows of all treatments: those with edits in one pass, each other one alone under `attach`.

        Calls back rather than yields, so that everything is detached before an exception leaves.
        """
        base_edits = self.base.edits(self.dose)
        rows: list[Row] = []
        together = Pass(treatments=[], edits=[], attached=base_edits is None)
        with self._attached(self.base if base_edits is None else None, self.dose):
            for treatment in self.treatments:
                own = [] if treatment.intervention is None else treatment.intervention.edits(treatment.condition)
                if own is None:
                    with self._attached(treatment.intervention, treatment.condition):
                        rows += rows_of(Pass(treatments=[treatment], edits=[base_edits or []], attached=True))
                else:
                    together.treatments.append(treatment)
                    together.edits.append([*(base_edits or []), *own])
            if together.treatments:
                rows += rows_of(together)
        return rows

    @contextmanager
    def _attached(self, intervention: Intervention | None, dose: Condition) -> Iterator[None]:
        block = nullcontext() if intervention is None else intervention.attach(self.chat.model, dose)
        with block:
            yield


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Treatments that run together.

    Args:
        treatments: in the order of `edits`.
        edits: what each changes, the base's own edits first. [C]
        attached: whether the model itself is changed, which no server knows of.
    """

    treatments: list[Treatment]
    edits: list[list[Edit]]
    attached: bool = False


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What an evaluator may work on once all rows are there.

    Args:
        chat: the measured model; loaded only where its weights are asked for.
        run: the open run folder.
        rows: every row that could be measured.
        stop: asked whenever something is written.
    """

    chat: ChatModel
    behavior: Behavior
    run: RunFolder
    rows: RowStore
    stop: Stop


class Evaluator:
    """Measures items under treatments: `AnswerProbability(multipliers=[-1, 1])`.

    Args:
        config: its recipe section; the defaults where neither it nor `settings` are given.
        **settings: the keys of the recipe section by name, checked as in a recipe.

    Example:
        >>> from caa_bench import Evaluator, Perplexity
        >>> Perplexity(multipliers=[-1, 1])
        Perplexity(multipliers=(-1.0, 1.0))
        >>> issubclass(Perplexity, Evaluator)
        True
    """

    name: ClassVar[str] = ""
    of_behavior: ClassVar[bool] = True
    """Whether it measures the behavior itself: verdicts and warnings are about these alone, and so are placebos."""
    shares_prefix: ClassVar[bool] = True
    """Whether conditions are rows on one computed prompt; else each is a forward of its own, and counted as one."""

    grid: ClassVar[tuple[str, ...]] = ("bases", "multipliers")
    """Config keys that only say which cells to measure."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The recipe section's keys that every evaluator has; its own Config inherits them.

        Args:
            bases: only these of the recipe's, and `none`; null: all.
            multipliers: in place of the vectors' own, at each of their layers; null: theirs.
        """

        bases: tuple[str, ...] | None = None
        multipliers: tuple[float, ...] | None = None

    def __init__(self, config: Any = None, **settings: Any) -> None:
        section = self.name or type(self).__name__
        self.config: Any = configured(self.Config, config, settings, section=section)

    def __repr__(self) -> str:
        """Its class with what differs from the defaults, as it could be written."""
        values = ((key.name, getattr(self.config, key.name), key.default) for key in fields(self.config))
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v, default in values if v != default)})"

    @classmethod
    def build(cls, config: Any, *, data_dir: Path | None, judges: Mapping[str, Any]) -> Self:
        """One instance from a recipe.

        Args:
            data_dir: the folder of the published data; None for what `caa-bench data download` fetched.
            judges: config of each judge there is, by name.

        Raises:
            UserError: the section names something that there is not.
        """
        return cls(config)

    def settings(self) -> dict[str, Any]:
        """Everything in the config that decides a row, as JSON: part of every content key."""
        code = {"code": key} if "name" in vars(type(self)) and (key := code_key(type(self))) else {}
        return code | {key: value for key, value in asdict(self.config).items() if key not in self.grid}

    def check(self, behavior: Behavior, chat: ChatModel, *, split: str) -> list[str]:
        """One line for each thing that cannot work; run before any weights load."""
        return []

    def check_base(self, base: Intervention) -> list[str]:
        """One line where it cannot be measured on this base; run before any weights load."""
        return []

    def items(self, behavior: Behavior, *, split: str) -> Sequence[Any]:
        """What is measured; every item has `id`, `cluster` and `question`."""
        raise NotImplementedError

    def questions(self, item: Any, *, protocol: Protocol) -> list[str]:
        """The texts that the model is asked for one item."""
        return [variant.question for variant in variants(item, protocol=protocol)]

    def decoded(self) -> int:
        """Tokens that are generated for each question and cell, at most."""
        return 0

    def costs(self, behavior: Behavior, chat: ChatModel, *, items: int, cells: int) -> list[str]:
        """What it costs beside the forwards over its prompts, one line each, said before the run."""
        return []

    def beforehand(self, jobs: Sequence[Job]) -> None:
        """What must be so before the first of these jobs is measured; nothing as a rule.

        Raises:
            UserError: it is not.
        """

    def evaluate(self, job: Job) -> list[Row]:
        """One row an item, order and treatment (see results.RowStore for the columns)."""
        raise NotImplementedError

    def failed(self, job: Job, why: str) -> list[Row]:
        """Rows that say why nothing of a job could be measured; none where a batch is measured whole or not at all."""
        return []

    def afterwards(self, work: Aftermath) -> list[str]:
        """What needs the rows and not their batches. Done by every `compare`; it repeats nothing that is kept.

        Returns:
            One line for each thing that is still missing, so that the run counts as unfinished.
        """
        return []
