"""Any metric that is measured beside the behavior: its level in every condition, and how far each moves it.

One place for perplexity, lm-eval's tasks and whatever evaluator writes rows of `row_kinds.METRIC_FIELDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.columns import columns
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, leading
from caa_bench.report.quotes import Span, metric_key, metric_quote, metric_span

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

TITLES = {"perplexity": "Perplexity of plain text", "lm_eval": "Tasks of lm-evaluation-harness"}
NOTE = (
    "Level in every condition with its 95% interval over items. total: change from the unchanged model; shift: from "
    "its own base; both over the same items. A perplexity changes by a ratio, more is worse; all else by a difference."
)

_CHANGES = {"ratio": "ratio to", "difference": "difference from"}
_PRINTED = 4
"""Metrics on the terminal: a group of tasks would fill it."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one evaluator."""

    name: str
    title: str
    note: str
    grids: tuple[Grid, ...]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One task's metric at the headline's layer.

    Args:
        evaluator / task / metric: what it is; `task` is "" where there is one alone.
        lines: lines of metrics.csv, base by base, by ascending dose.
    """

    evaluator: str
    task: str
    metric: str
    lines: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """What it is, over how many items."""
        most = max(self.lines, key=lambda line: int(line["n"]))
        named = f"{self.task}: {self.metric}" if self.task else self.metric.capitalize()
        tokens = f", {most['weight']:,.0f} tokens" if self.evaluator == "perplexity" else ""
        return f"{named} (n {words.count(most['n'])}{tokens})"

    @property
    def form(self) -> Callable[[float], str]:
        """How a level is written: as a probability where it can be one."""
        ends = [line[f"value{end}"] for line in self.lines for end in ("", "_low", "_high")]
        can_be = self.lines[0]["change"] == "difference" and not any(x < 0 or x > 1 for x in ends)
        return words.probability if can_be else words.level

    @property
    def change(self) -> Callable[[float], str]:
        """How a change is written."""
        return words.ratio if self.lines[0]["change"] == "ratio" else words.signed


def found_metrics(report: Report, chosen: Headline) -> Iterator[Metric]:
    """Every metric of a run, by evaluator and task."""
    if report.metrics is None:
        return
    shown: pd.DataFrame = leading(report.metrics, chosen, report.manifest["recipe"].get("bases", []))
    for (evaluator, task, metric), own in shown.groupby(["evaluator", "task", "metric"], sort=False):
        yield Metric(evaluator=evaluator, task=task, metric=metric, lines=tuple(own.to_dict("records")))


def metrics_text(report: Report, chosen: Headline, *, detail: bool) -> str:
    """The printed sections: level and change of every base and dose; without `detail`, each task's first metric."""
    every = list(found_metrics(report, chosen))
    first = {(one.evaluator, one.task): one for one in reversed(every)}
    shown = every if detail else [one for one in every if first[one.evaluator, one.task] is one][:_PRINTED]
    rest = len(every) - len(shown)
    more = [f"{rest} more metric{'s' if rest > 1 else ''} in table.txt"] if rest else []
    return "\n\n".join([*(_printed(one, chosen) for one in shown), *more])


def metric_sections(report: Report, chosen: Headline) -> list[Section]:
    """The page's sections, one an evaluator."""
    every = list(found_metrics(report, chosen))
    names = dict.fromkeys(one.evaluator for one in every)
    return [
        Section(
            name=name,
            title=TITLES.get(name, name),
            note=NOTE,
            grids=tuple(_grid(one) for one in every if one.evaluator == name),
        )
        for name in names
    ]


def _printed(one: Metric, chosen: Headline) -> str:
    multipliers = sorted({float(line["multiplier"]) for line in one.lines})
    at: dict[str, dict[float, dict[str, Any]]] = {}
    for line in one.lines:
        at.setdefault(words.named(line["base"], line["base_dose"]), {})[line["multiplier"]] = line
    heads = ["base", *(words.on_top(chosen.vector, m) for m in multipliers)]
    parts = []
    for column, form, what in (
        ("value", one.form, f"{one.title}, 95% interval"),
        ("total", one.change, f"  {_CHANGES[one.lines[0]['change']]} the unchanged model, over the same items"),
    ):
        table = [
            [base, *(str(metric_span(own[m], column, form)) if m in own else "" for m in multipliers)]
            for base, own in at.items()
        ]
        parts += [what, columns(heads, table)]
    return "\n".join(parts)


def _grid(one: Metric) -> Grid:
    rows = []
    for line in one.lines:
        spans: list[Span] = [metric_span(line, "value", one.form)]
        spans += [metric_span(line, name, one.change) for name in ("total", "shift")]
        counts = [metric_quote(line, name, words.count) for name in ("n", "n_total", "n_shift", "errors")]
        numbers: tuple[Cell, ...] = (*spans, *counts)
        dose = words.multiplier(line["multiplier"])
        names = (words.named(line["base"], line["base_dose"]), dose)
        rows.append(GridRow(place="metric", key=metric_key(line), names=names, cells=numbers))
    return Grid(
        caption=f"{one.title}; total and shift are each a {one.lines[0]['change']}",
        names=("base", "multiplier"),
        heads=("value", "total", "shift", "n", "n_total", "n_shift", "errors"),
        rows=tuple(rows),
    )
