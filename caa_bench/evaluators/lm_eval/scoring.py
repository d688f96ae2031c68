"""A task's requests under a model -> the value of each metric of one document, by lm-eval's own filters and rules."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import get_aggregation

from caa_bench.models.hub import first_line

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    from caa_bench.evaluators.lm_eval.steered_model import SteeredLM

_SUMS = {
    "mean": "mean",
    "nanmean": "mean",
    "perplexity": "perplexity",
    "weighted_perplexity": "perplexity",
    "bits_per_byte": "bits",
}
"""lm-eval's aggregations that are sums over documents, and the row's; BLEU, F1, ... have no value of one document."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One metric of one document: a sum over `weight` units; None with the reason where there is none."""

    metric: str
    aggregation: str
    value: float | None
    weight: int | None = 1
    error: str | None = None


def aggregation_of(task: Task, metric: str) -> str | None:
    """The row's aggregation of a task's metric; None where it is no sum over documents. lm-eval takes the mean of what
    a task gives without saying how it is aggregated."""
    known = task.aggregation()
    if metric not in known:
        return "mean"
    return next((ours for name, ours in _SUMS.items() if known[metric] is get_aggregation(name)), None)


def answer(instances: Sequence[Instance], lm: SteeredLM) -> None:
    """Run requests of each kind together, repeats among them, and leave the answers in them."""
    for kind in dict.fromkeys(one.request_type for one in instances):
        asked = [one for one in instances if one.request_type == kind for _ in range(one.repeats or 1)]
        for one, answer in zip(asked, getattr(lm, kind)(asked), strict=True):
            one.resps.append(answer)


def apply_filters(task: Task, instances: list[Instance]) -> None:
    """The task's own filters over some of its requests: they work on all that a task holds."""
    if instances:
        part = copy.copy(task)
        part._instances = instances
        part.apply_filters()


def scored(task: Task, instances: Sequence[Instance]) -> Iterator[Value]:
    """What the task makes of one document's filtered answers."""
    ordered = sorted(instances, key=lambda one: int(one.idx))
    for name in ordered[0].filtered_resps:
        try:
            results = task.process_results(ordered[0].doc, [one.filtered_resps[name] for one in ordered])
        except Exception as error:  # of one answer that its rules do not foresee
            yield from failed(task, f"{type(error).__name__}: {first_line(error)}", only=name)
            continue
        for metric, value in results.items():
            if (how := aggregation_of(task, metric)) is not None:
                yield _parsed_value(_metric_name(metric, name), how, value)


def _parsed_value(metric: str, aggregation: str, value: Any) -> Value:
    total, weight = value if isinstance(value, tuple) and len(value) == 2 else (value, 1)
    try:
        number, units = float(total), int(weight)
    except (TypeError, ValueError):
        number, units = math.nan, 1
    if not math.isfinite(number) or units < 1:
        return Value(metric=metric, aggregation=aggregation, value=None, weight=None, error="the task gives no number")
    return Value(metric=metric, aggregation=aggregation, value=number, weight=units)


def failed(task: Task, error: str | None, *, only: str | None = None) -> Iterator[Value]:
    """A document in error, in every metric."""
    for name in [only] if only is not None else [one.name for one in task._filters]:
        for metric in task.aggregation():
            if (aggregation := aggregation_of(task, metric)) is not None:
                yield Value(
                    metric=_metric_name(metric, name), aggregation=aggregation, value=None, weight=None, error=error
                )


def _metric_name(metric: str, name: str) -> str:
    """`acc`, or `exact_match,strict-match` where a filter is named, as in lm-eval's own results."""
    return metric if name == "none" else f"{metric},{name}"


def finite(answer: Any) -> bool:
    number = answer[0] if isinstance(answer, tuple) else answer
    return not isinstance(number, float) or math.isfinite(number)
