"""The dose curves of a report as every dashboard shows them: names, metrics and points, in wandb as in trackio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.headline import MEASURE

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

STEP = "multiplier"
LEVELS = (
    "p_balanced", "p_balanced_low", "p_balanced_high", "log_odds", "log_odds_low", "log_odds_high", "option_mass",
    "letter_bias", "n",
)  # fmt: skip
ANSWERS = ("score", "score_low", "score_high", "distinct_2", "loop_share", "perplexity", "missing_share", "n")
CAPABILITY = ("p_balanced", "p_balanced_low", "p_balanced_high", "option_mass", "n")
METRICS = {"behavior": LEVELS, "capability": CAPABILITY, "open_ended": ANSWERS}
"""Family (an evaluator, `behavior` for the answer probability) -> columns of cells.csv, logged as `family/column`.
Those of metrics.csv are logged as `family/metric`, behind the task's name where there is one."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One base with one vector at one layer.

    Args:
        name: `none + caa, layer 3`.
        points: `multiplier` and what is known there as `family/column`, ascending; the base alone is at 0.
    """

    name: str
    points: tuple[dict[str, float], ...]

    @property
    def families(self) -> tuple[str, ...]:
        """`behavior`, `capability`, ...: the first parts of its metrics' names."""
        return tuple(
            dict.fromkeys(metric.partition("/")[0] for point in self.points for metric in point if "/" in metric)
        )

    def column(self, metric: str) -> tuple[list[float], list[float]]:
        """The multipliers at which a metric is known, and its values."""
        known = [point for point in self.points if metric in point]
        return [point[STEP] for point in known], [point[metric] for point in known]


def curves(report: Report) -> list[Curve]:
    """Every curve of a run, in the plan's order; the evaluators of one condition stand in one point."""
    points: dict[tuple[Any, ...], dict[str, float]] = {}
    steered: dict[str, list[tuple[Any, ...]]] = {}
    for known, line in _cell_lines(report):
        place = (line["base"], line["base_dose"], _curve_name(line), line[STEP])
        if place not in points and line["vector"]:
            steered.setdefault(place[2], []).append(place)
        points.setdefault(place, {STEP: line[STEP]}).update(known)
    found = []
    for name, places in steered.items():
        base, base_dose, _, _ = places[0]
        own, alone = [points[place] for place in places], points.get((base, base_dose, "", 0.0), {})
        ordered = sorted([*own, *_beside(own, alone)], key=lambda point: point[STEP])
        found.append(Curve(name=name, points=tuple(ordered)))
    return found


def group_of(report: Report) -> str:
    """`refusal-tiny`: what the curves of one behavior and model have in common."""
    return f"{report.record.behavior.id}-{Path(report.record.model).name}"


def _cell_lines(report: Report) -> Iterator[tuple[dict[str, float], dict[str, Any]]]:
    """Every cell with what is known of it; one that several metrics were measured in comes once a metric."""
    tables: list[pd.DataFrame] = [report.cells, *([report.answers.cells] if report.answers else [])]
    for table in tables:
        for line in table.to_dict("records"):
            family = "behavior" if line["evaluator"] == MEASURE else str(line["evaluator"])
            yield _known(family, line), line
    for line in report.metrics.to_dict("records"):
        name = "_".join(part for part in (line["task"], line["metric"]) if part)
        values = {f"{name}{end}": line[f"value{end}"] for end in ("", "_low", "_high")} | {f"{name}_n": line["n"]}
        yield {f"{line['evaluator']}/{key}": float(value) for key, value in values.items() if value == value}, line


def _beside(own: list[dict[str, float]], alone: dict[str, float]) -> Iterator[dict[str, float]]:
    """The base's own point, without the evaluators that measured no dose of this curve: one dot is no curve."""
    families = {metric.partition("/")[0] for point in own for metric in point}
    if alone:
        yield {metric: value for metric, value in alone.items() if metric.partition("/")[0] in families}


def _known(family: str, line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that have a number, by their name in the dashboard."""
    names = METRICS.get(family, LEVELS)
    return {f"{family}/{name}": float(line[name]) for name in names if name in line and line[name] == line[name]}


def _curve_name(line: Mapping[str, Any]) -> str:
    """Of a steered cell; "" for a base alone. A vector taken elsewhere is named with its source."""
    if not line["vector"]:
        return ""
    vector = str(line["vector"])
    if line.get("vector_model"):
        vector += f"~{line['vector_model']}"
    if line["vector_behavior"] not in ("", line["behavior"]):
        vector += f":{line['vector_behavior']}"
    source, layer = float(line["vector_layer"]), float(line["layer"])
    if source == source and source != layer:
        vector += f"@{source:.0f}"
    return f"{words.named(line['base'], line['base_dose'])} + {vector}, layer {words.count(layer)}"
