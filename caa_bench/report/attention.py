"""What a reader must know before the numbers: what is missing, then the automatic warnings, then the data's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.fairness import LEAST_MASS, MOST_LOSS
from caa_bench.analysis.items import letter_table
from caa_bench.analysis.warn import Found, RunFacts, Tables, answer_warnings, metric_warnings
from caa_bench.analysis.warn_rules import RunWarning, find_warnings, length_matters
from caa_bench.report.choices import uneven_tries
from caa_bench.report.headline import at_headline, of_behavior
from caa_bench.report.tables import Answers, by_half
from caa_bench.report.words import display

if TYPE_CHECKING:
    from caa_bench.report.model import Report


_REST = {
    False: "run the same command again to finish",
    True: "the command said what failed, and computes the rest once that is mended",
}


SECTIONS = {
    **dict.fromkeys(("option_mass", "letter_locked", "letter_bias", "letter_gap", "item_errors"), "letters"),
    **dict.fromkeys(("pairs_hardly_agree", "sides_overlap"), "vectors"),
    **dict.fromkeys(("longer_option", "idle_base", "steered_too_far", "not_felt"), "arms"),
    **dict.fromkeys(("choice_at_edge", "reopened_test"), "tuning"),
    **dict.fromkeys(("not_monotone", "fits_differ"), "cells"),
    **dict.fromkeys(("underpowered", "open_ended_disagrees"), "stacks"),
    "within_placebos": "placebos",
    "anti_steerable": "items",
    "one_seed": "repeat",
}
"""The rule of a warning -> the section of the page that holds the lines behind it."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to know.

    Args:
        severity: `missing` (the run is not whole), `severe`, `caution` or `note`.
        text: one sentence.
        section: of the page, with the lines behind it; "" where they are in manifest.json.
    """

    severity: str
    text: str
    section: str = ""


def find_notices(report: Report) -> Iterator[Notice]:
    """Everything to know. Layers that do not lead are no reason to warn: a sweep is run to find them out."""
    layer, record = report.headline.layer, report.record
    names = ("cells", "stacking", "shifts", "reliability", "placebos")
    tables = Tables(**{name: _leading(of_behavior(getattr(report, name)), layer) for name in names})
    yield from _missing(report)
    if report.answers is not None:
        yield from _unjudged(report.answers)
    for code, found in _warned(report, tables):
        yield Notice(severity=found.severity, text=found.text, section=SECTIONS.get(code, code))
    if report.headline.defaulted:
        yield Notice(severity="caution", text=_defaulted(report), section="layers")
    if (uneven := uneven_tries(report)) is not None:
        yield Notice(severity=uneven[0], text=uneven[1], section="matched")
    yield from (Notice(severity="caution", text=line) for line in record.warnings)
    yield from (Notice(severity="note", text=f"Resumed with another version: {x}") for x in record.version_changes)


def _warned(report: Report, tables: Tables) -> Iterator[tuple[str, RunWarning | Found]]:
    """The automatic warnings, each with the name of its rule or of its section."""
    layer, own = report.headline.layer, {report.record.behavior.id: _facts(report)}
    for warning in find_warnings(tables, own, placebos=report.record.placebos, shown=display):
        yield warning.code, warning
    if report.answers is not None:
        for found in answer_warnings(_leading(report.answers.cells, layer), report.answers.judges):
            yield "answers", found
    if len(report.metrics):
        for found in metric_warnings(_leading(report.metrics, layer), tables.shifts):
            yield "metrics", found


def leading_pairs(report: Report) -> dict[str, Any] | None:
    """The headline vector's line of vectors.csv at the layer that it is taken from; None where it is not known."""
    chosen = report.headline
    if chosen.layer is None:
        return None
    taken = report.at_headline("shifts")["vector_layer"].dropna().unique()
    layer = float(taken[0]) if len(taken) else chosen.layer
    here = report.vectors[(report.vectors["vector"] == chosen.vector) & (report.vectors["layer"] == layer)]
    return None if here.empty else {str(name): value for name, value in here.iloc[0].items()}


def _facts(report: Report) -> RunFacts:
    chosen, record = report.headline, report.record
    return RunFacts(
        test_opened=record.test_opened or None,
        test_opening=record.test_opening,
        choice_at_edge=tuple(dict.fromkeys(column for choice in chosen.choices for column in choice.at_edge)),
        open_ended=_open_shifts(report),
        train_longer_share=record.longer.get("train_share"),
        halves=_halves(report),
        vector=leading_pairs(report),
        leading=display(chosen.vector),
        letters=letter_table(report.items),
    )


def _defaulted(report: Report) -> str:
    chosen = report.headline
    return (
        f"No layer qualified on the selection split: at none of {len(chosen.layers)} did a dose move the behavior, "
        f"keep {LEAST_MASS:.0%} of the unchanged model's option mass "
        f"and cost at most {MOST_LOSS:.0%} of the capability. "
        f"Layer {chosen.layer:.0f} leads by default, not by its results."
    )


def _unjudged(answers: Answers) -> Iterator[Notice]:
    for judge in answers.judges[answers.judges["unjudged"] > 0].to_dict("records"):
        yield Notice(
            severity="missing",
            text=f"The judge {judge['judge']} has not judged {judge['unjudged']:,} of {judge['answers']:,} answers; "
            "the next run asks for these alone.",
        )


def _open_shifts(report: Report) -> pd.DataFrame | None:
    """The judged shift of each vector and of each base alone, for the rule that compares them with A/B answers."""
    if report.answers is None:
        return None
    cells = _leading(report.answers.cells, report.headline.layer)
    parts = []
    for effect, lines in (("score_shift", cells["multiplier"] != 0), ("score_total", cells["multiplier"] == 0)):
        names = {f"{effect}{end}": f"shift{end}" for end in ("_low", "_high")}
        columns = ["vector", "base", "base_dose", "layer", "multiplier", *names]
        parts.append(cells.loc[lines, columns].rename(columns=names))
    return pd.concat(parts, ignore_index=True)


def _halves(report: Report) -> pd.DataFrame | None:
    """The leading dose of the vector alone by the length of the options, where length may have been learned."""
    chosen, longer = report.headline, report.record.longer
    if not chosen.doses or longer.get("train_share") is None or not length_matters(longer["train_share"]):
        return None
    cells = report.measured("cells")
    cells = cells[cells["base"] == "none"]
    dose = chosen.doses[-1]
    steered = at_headline(cells[cells["multiplier"] == dose], chosen)
    used = pd.concat([cells[cells["multiplier"] == 0], steered])
    halves = by_half(report, used, longer=longer["items"], how=report.record.how)
    return halves[(halves["multiplier"] == dose) & (halves["n"] > 0)]


def _leading(table: pd.DataFrame, layer: float | None) -> pd.DataFrame:
    return table[table["layer"].isna() | (table["layer"] == layer)]


def _counted(report: Report) -> pd.DataFrame:
    """`n`, `errors` and `n_fits` of every cell, whatever was measured in it."""
    counted = [report.cells]
    if report.answers is not None:  # answered, whatever was judged
        counted.append(report.answers.cells.assign(n=report.answers.cells["missing_share"].notna()))
    if len(report.metrics):
        counted.append(report.metrics.groupby("cell", as_index=False)[["n", "errors", "n_fits"]].max())
    return pd.concat([table[["n", "errors", "n_fits"]] for table in counted])


def _missing(report: Report) -> Iterator[Notice]:
    record, cells = report.record, _counted(report)
    absent = [key for key in record.batches if key not in report.done]
    if absent:
        yield Notice(
            severity="missing",
            text=f"{len(absent)} of {len(record.batches)} batches are missing (status {record.status}): the numbers "
            f"are of the items that are there; {_REST[record.status == 'error']}.",
        )
    unseen = len(record.cells) - int(cells.loc[cells["n"] > 0, "n_fits"].sum())
    if unseen > 0:
        yield Notice(severity="missing", text=f"{unseen} of {len(record.cells)} cells have no scored item.")
    errors = cells[cells["errors"] > 0]
    if len(errors):
        count = int(errors["errors"].sum())
        yield Notice(severity="missing", text=f"{count} answers in {len(errors)} cells are errors and are left out.")
