"""A batch that fails -> the rows of everything in it that can be measured, and rows that say why of the rest.

A batch holds many questions under many treatments. One question that cannot be asked, or one vector whose code raises,
would otherwise take all others with it, and would do so again at every try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caa_bench.evaluators.base import Evaluator, Job, Row, Treatment
from caa_bench.models.memory import out_of_memory


@dataclass(frozen=True, kw_only=True)
class Apart:
    """What became of a batch that failed.

    Args:
        rows: of every item and treatment.
        broken: labels of the vectors, then ids of the items, that fail by themselves.
    """

    rows: list[Row]
    broken: tuple[str, ...]


def measured_apart(
    evaluator: Evaluator, job: Job, error: Exception, *, evaluate: Callable[[Job], list[Row]]
) -> Apart | None:
    """The batch without the treatments and items that fail by themselves in the same way.

    Args:
        error: what the whole batch raised.
        evaluate: computes a part of it.

    Returns:
        None where nothing can be measured, where memory ran out or a server is gone, where nothing fails by itself (so
        that it was no matter of one item), or where the evaluator has no rows for what failed. The batch has then
        failed as a whole.
    """
    lost = evaluator.failed(job, f"{type(error).__name__}: {error}".partition("\n")[0])
    if out_of_memory(error) or isinstance(error, ConnectionError) or not lost:
        return None
    fails = _same(evaluate, error)
    ends = [[item] for item in dict.fromkeys((0, len(job.items) - 1))]
    treatments = [
        one
        for one in job.treatments
        if all(fails(replace(job, treatments=[one], items=[job.items[place] for place in end])) for end in ends)
    ]
    left = replace(job, treatments=[one for one in job.treatments if one not in treatments])
    if not left.treatments:
        return None
    items = _failing(left, job.items, fails)
    if len(items) == len(job.items) or not (items or treatments):
        return None
    rows = evaluate(replace(left, items=[item for item in job.items if item not in items]))
    measured = {(row["cell"], row["item"]) for row in rows}
    rows += [row for row in lost if (row["cell"], row["item"]) not in measured]
    return Apart(rows=rows, broken=(*_labels(treatments), *(item.id for item in items)))


def _same(evaluate: Callable[[Job], list[Row]], error: Exception) -> Callable[[Job], bool]:
    """Tells of a part of the batch whether it fails as the whole did."""

    def fails(part: Job) -> bool:
        try:
            evaluate(part)
        except Exception as other:
            return type(other) is type(error)
        return False

    return fails


def _failing(job: Job, items: Sequence[Any], fails: Callable[[Job], bool]) -> list[Any]:
    """The items that fail, by halves: one of 32 takes ten forwards."""
    if not items or not fails(replace(job, items=items)):
        return []
    if len(items) == 1:
        return list(items)
    middle = len(items) // 2
    return _failing(job, items[:middle], fails) + _failing(job, items[middle:], fails)


def _labels(treatments: Sequence[Treatment]) -> list[str]:
    found = ["" if one.intervention is None else one.intervention.label for one in treatments]
    return list(dict.fromkeys(filter(None, found)))
