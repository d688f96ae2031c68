"""Tasks of lm-evaluation-harness: names -> documents with their requests; documents and a model -> metric values.

Requests are built once a task by lm-eval itself, few-shot examples and all, as its own evaluation builds them; a batch
runs those of its documents alone, and lm-eval scores them document by document.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.evaluators.lm_eval.scoring import Value, aggregation_of, answer, apply_filters, failed, finite, scored
from caa_bench.evaluators.lm_eval.task_loading import broken, load_tasks, quiet_lm_eval, refused, set_fewshot
from caa_bench.storage.files import content_key

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from caa_bench.evaluators.lm_eval.steered_model import SteeredLM

_NO_CONTENT = ("dataset_path", "dataset_kwargs", "metadata", "task")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of one task.

    Args:
        id: `<task>/<4-digit place>`.
        question: the context of its first request.
        cluster: its own id.
        task / number: the task's name, and lm-eval's own `doc_id`.
        content: of its requests, of the document and of how the task scores it: part of every content key.
    """

    id: str
    question: str
    cluster: str
    task: str
    number: int
    content: str


class Tasks:
    """Loaded tasks.

    Args:
        names: tasks, groups or tags.
        folder: the user's own task files; "" for none. They go before lm-eval's of the same name.
        num_fewshot: None takes each task's own; a task that says 0 stays at 0, as in lm-eval.
        limit: only the first so many documents of each task; None: all.
        seed: of the few-shot examples.

    Raises:
        UserError: an unknown name, or a task that cannot be loaded or measured here; one line each.
    """

    def __init__(
        self, names: Sequence[str], *, folder: str, num_fewshot: int | None, limit: int | None, seed: int
    ) -> None:
        self.tasks = load_tasks(list(dict.fromkeys(names)), folder=folder)
        mistakes = [line for name, task in self.tasks.items() for line in refused(name, task)]
        if mistakes:
            raise UserError(*mistakes)
        self._instances: dict[str, list[Instance]] = {}
        for name, task in self.tasks.items():
            set_fewshot(task, num_fewshot=num_fewshot, seed=seed)
            try:
                with quiet_lm_eval():
                    task.build_all_requests(limit=limit)
            except Exception as error:
                raise broken(name, error) from error
            for instance in task.instances:
                self._instances.setdefault(_id(name, instance.doc_id), []).append(instance)

    @cached_property
    def documents(self) -> list[Document]:
        """The tasks' documents in turn, so that a limit takes from all."""
        found = []
        for place, (name, task) in enumerate(self.tasks.items()):
            settings = {k: v for k, v in task.dump_config().items() if k not in _NO_CONTENT}
            scoring = content_key(_stable_text(settings))
            for number in dict.fromkeys(instance.doc_id for instance in task.instances):
                own = self._instances[_id(name, number)]
                content = content_key([scoring, *(_stable_text([one.request_type, one.doc, one.args]) for one in own)])
                key = _id(name, number)
                made = Document(
                    id=key, question=str(own[0].args[0]), cluster=key, task=name, number=number, content=content
                )
                found.append(((number, place), made))
        return [document for _, document in sorted(found, key=lambda one: one[0])]

    def left_out(self) -> dict[str, list[str]]:
        """The metrics of each task that have no value of one document."""
        found = {
            name: [metric for metric in task.aggregation() if aggregation_of(task, metric) is None]
            for name, task in self.tasks.items()
        }
        return {name: metrics for name, metrics in found.items() if metrics}

    def requests(self, documents: Sequence[Document]) -> list[Instance]:
        """Every request that lm-eval makes of these documents."""
        return [instance for document in documents for instance in self._instances[document.id]]

    def values(self, documents: Sequence[Document], lm: SteeredLM) -> dict[str, list[Value]]:
        """Each document's metrics under the model, by its id."""
        own = {document.id: [copy.copy(one) for one in self._instances[document.id]] for document in documents}
        for instances in own.values():
            for instance in instances:
                instance.resps, instance.filtered_resps = [], {}
        errors = {key: next(filter(None, map(lm.problem, instances)), None) for key, instances in own.items()}
        answer([one for key, instances in own.items() if not errors[key] for one in instances], lm)
        for key, instances in own.items():
            if not errors[key] and not all(finite(said) for one in instances for said in one.resps):
                errors[key] = "a logit is not finite"
        found: dict[str, list[Value]] = {}
        for name, task in self.tasks.items():
            here = {document.id: own[document.id] for document in documents if document.task == name}
            sound = {key: instances for key, instances in here.items() if not errors[key]}
            apply_filters(task, [one for instances in sound.values() for one in instances])
            for key, instances in here.items():
                found[key] = list(failed(task, errors[key]) if errors[key] else scored(task, instances))
        return found


def _id(task: str, number: int) -> str:
    return f"{task}/{number:04d}"


def _stable_text(value: Any) -> str:
    """As text that is the same in every process: functions by their name, not by where they lie in memory."""
    return json.dumps(value, sort_keys=True, default=lambda one: getattr(one, "__qualname__", type(one).__name__))
