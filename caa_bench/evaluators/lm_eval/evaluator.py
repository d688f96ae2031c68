"""Any task of lm-evaluation-harness on the steered model, through its Python API: `pip install caa-bench[lm-eval]`.

Items are the tasks' documents: each batch runs the requests of its documents alone, on this package's engine
(`steered_model.py`), and lm-eval scores them. Every condition has a value of every document and metric, so that
changes are paired and have intervals. Metrics that are no sum over documents (BLEU, F1) are left out, and said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError, too_few
from caa_bench.evaluators.base import Evaluator, Job, Pass, Row
from caa_bench.storage.paths import is_folder
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.behaviors.items import Protocol
    from caa_bench.evaluators.lm_eval.scoring import Value
    from caa_bench.evaluators.lm_eval.tasks import Document, Tasks
    from caa_bench.interventions import Intervention
    from caa_bench.models.model import ChatModel


class LmEval(Evaluator):
    """Runs the tasks' documents and keeps each metric's value.

    Args:
        config: its recipe section.

    Example:
        >>> from caa_bench import LmEval
        >>> LmEval(tasks=["arc_easy"], limit=20).config.tasks
        ('arc_easy',)
    """

    name = "lm_eval"
    of_behavior = False
    shares_prefix = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Evaluator.Config):
        """Recipe section `lm_eval`.

        Args:
            tasks: names of tasks, groups or tags.
            task_path: a folder with task YAML files of your own, which can name Python functions: only what you trust.
            num_fewshot: examples in front of each question; null: each task's own number.
            limit: only the first so many documents of each task; null: all.
            chat_template: true puts each context to the model as one user turn, and the continuation is its answer;
                false takes the raw text, as lm-eval does by default, and no system prompt can act.
            max_new_tokens: length at which an answer is cut off, where the task does not say.
            seed: of the few-shot examples and of answers that are drawn; 1234 is lm-eval's own.
        """

        tasks: tuple[str, ...] = ()
        task_path: str = ""
        num_fewshot: int | None = None
        limit: int | None = None
        chat_template: bool = True
        max_new_tokens: int = 256
        seed: int = 1234

        def __post_init__(self) -> None:
            lines = too_few({"num_fewshot": self.num_fewshot}, least=0)
            lines += too_few({"limit": self.limit, "max_new_tokens": self.max_new_tokens})
            lines += too_few({"seed": self.seed}, least=0)
            if lines:
                raise ValueError("\n".join(lines))

    def settings(self) -> dict[str, Any]:
        """What is not in the documents themselves; lm-eval's version, since it scores."""
        views = ("tasks", "task_path", "limit")
        return {k: v for k, v in super().settings().items() if k not in views} | {"lm_eval": version("lm_eval")}

    def check(self, behavior: Behavior, chat: ChatModel, *, split: str) -> list[str]:
        """lm-eval, the tasks, and what of them cannot be measured; loads the tasks' data."""
        if find_spec("lm_eval") is None:
            return ["evaluators: lm_eval needs lm-eval, which is not installed; run pip install caa-bench[lm-eval]"]
        if not self.config.tasks:
            return ["lm_eval.tasks: an empty list; name tasks, for example [piqa], or take lm_eval out of evaluators"]
        folder = self.config.task_path
        if folder and not is_folder(Path(folder)):
            return [f"lm_eval.task_path: there is no folder {terminal_safe(folder)}; give one with task YAML files"]
        try:
            _ = self._tasks
        except UserError as error:
            return list(error.lines)
        except ImportError as error:
            return [f"evaluators: lm_eval cannot be used ({error}); run pip install caa-bench[lm-eval]"]
        return []

    def check_base(self, base: Intervention) -> list[str]:
        """A raw text has no conversation that a system prompt could change."""
        asked = [{"role": "user", "content": "?"}]
        if self.config.chat_template or base.rewrite(asked) == asked:
            return []
        return [f"lm_eval.chat_template: false leaves {base.label} nothing to act on; set it to true, or take it out"]

    def items(self, behavior: Behavior, *, split: str) -> Sequence[Document]:
        """The same documents for every behavior and split, the tasks in turn.

        Raises:
            UserError: the tasks cannot be loaded.
        """
        return self._tasks.documents

    def questions(self, item: Document, *, protocol: Protocol) -> list[str]:
        """The context of each request, with what is scored after it."""
        return [" ".join(part for part in one.args if isinstance(part, str)) for one in self._tasks.requests([item])]

    def costs(self, behavior: Behavior, chat: ChatModel, *, items: int, cells: int) -> list[str]:
        """The metrics that are left out."""
        return [
            f"lm_eval: {terminal_safe(task)}: {terminal_safe(', '.join(metrics))} is no sum over documents and left out"
            for task, metrics in self._tasks.left_out().items()
        ]

    def evaluate(self, job: Job) -> list[Row]:
        """One row a document, metric and treatment; every treatment is a forward of its own."""
        from caa_bench.evaluators.lm_eval.steered_model import SteeredLM

        def under(edits: Sequence[Any]) -> SteeredLM:
            return SteeredLM(
                job.chat,
                base=job.base,
                edits=edits,
                chat_template=self.config.chat_template,
                max_new_tokens=self.config.max_new_tokens,
                batch_size=job.prompts_per_pass,
                seed=self.config.seed,
                share_prefix=job.share_prefix,
            )

        def rows_of(one: Pass) -> list[Row]:
            rows = []
            for treatment, edits in zip(one.treatments, one.edits, strict=True):
                values = self._tasks.values(job.items, under(edits))
                rows += [_metric_row(treatment.cell, item, value) for item in job.items for value in values[item.id]]
            return rows

        return job.measure(rows_of)

    @cached_property
    def _tasks(self) -> Tasks:
        from caa_bench.evaluators.lm_eval.tasks import Tasks

        config = self.config
        return Tasks(
            config.tasks,
            folder=config.task_path,
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            seed=config.seed,
        )


def _metric_row(cell: str, item: Document, value: Value) -> Row:
    return {
        "cell": cell,
        "item": item.id,
        "cluster": item.cluster,
        "task": item.task,
        "metric": value.metric,
        "aggregation": value.aggregation,
        "value": value.value,
        "weight": value.weight,
        "error": value.error,
    }
