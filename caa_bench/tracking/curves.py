"""The dose curves of a report as every dashboard shows them: names, metrics and points, in wandb as in trackio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.headline import MEASURE
from caa_bench.tracking.base import STEP as STEP

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

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
        base / vector / layer: what it is of, to filter, group and color by; no layer where there is none.
        kind: `arm`, or `placebo`, of which one curve stands for all draws: their mean, with their range as its ends.
        points: `multiplier` and what is known there as `family/column`, ascending; the base alone is at 0.
    """

    name: str
    base: str
    vector: str
    layer: float | None
    kind: str
    points: tuple[dict[str, float], ...]

    def facts(self) -> dict[str, Any]:
        """For the config of its run."""
        return {"base": self.base, "vector": self.vector, "layer": self.layer, "kind": self.kind}

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
    """Every curve of a run, in the plan's order, then a band a vector, base and layer that has placebos.

    The evaluators of one condition stand in one point.
    """
    points: dict[tuple[Any, ...], dict[str, float]] = {}
    steered: dict[str, list[tuple[Any, ...]]] = {}
    lines: dict[str, Mapping[str, Any]] = {}
    for known, line in _cell_lines(report):
        if line["vector"] in report.record.placebos:
            continue
        place = (line["base"], line["base_dose"], _curve_name(line), line[STEP])
        if place not in points and line["vector"]:
            steered.setdefault(place[2], []).append(place)
            lines.setdefault(place[2], line)
        points.setdefault(place, {STEP: line[STEP]}).update(known)
    found = []
    for name, places in steered.items():
        base, base_dose, _, _ = places[0]
        own, alone = [points[place] for place in places], points.get((base, base_dose, "", 0.0), {})
        ordered = sorted([*own, *_beside(own, alone)], key=lambda point: point[STEP])
        found.append(_curve(name, lines[name], vector=str(lines[name]["vector"]), kind="arm", points=ordered))
    return [*found, *_bands(report, points)]


def _curve(name: str, line: Mapping[str, Any], *, vector: str, kind: str, points: list[dict[str, float]]) -> Curve:
    layer = float(line["layer"])
    base = words.named(line["base"], line["base_dose"])
    return Curve(
        name=name, base=base, vector=vector, layer=None if layer != layer else layer, kind=kind, points=tuple(points)
    )


def _bands(report: Report, points: Mapping[tuple[Any, ...], dict[str, float]]) -> Iterator[Curve]:
    """The mean and the range of p(matching) over all draws of a vector's placebos."""
    draws = report.measured("placebos")
    for _, own in draws.groupby(["base", "base_dose", "layer", "original"], dropna=False, sort=False):
        line = own.iloc[0]
        band = []
        for multiplier, at in own.groupby("multiplier"):
            p = at["p_balanced"]
            ends = {"p_balanced": p.mean(), "p_balanced_low": p.min(), "p_balanced_high": p.max(), "n": float(len(at))}
            known = {f"behavior/{name}": float(value) for name, value in ends.items() if value == value}
            band.append({STEP: float(multiplier), **known})
        alone = points.get((line["base"], line["base_dose"], "", 0.0), {})
        if "behavior/p_balanced" in alone:
            band.append({STEP: 0.0, "behavior/p_balanced": alone["behavior/p_balanced"]})
        many = own.groupby("multiplier").size().max()
        vector = f"placebos of {line['original']}"
        base, layer = words.named(line["base"], line["base_dose"]), words.count(line["layer"])
        name = f"{base} + {vector} ({many} draws), layer {layer}"
        yield _curve(name, line, vector=vector, kind="placebo", points=sorted(band, key=lambda point: point[STEP]))


def group_named(recipe: Mapping[str, Any]) -> str:
    """`refusal-tiny`: what the curves of one behavior and model have in common."""
    return f"{Path(str(recipe['behavior'])).name}-{Path(str(recipe['model'])).name}"


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
