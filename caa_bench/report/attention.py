"""What a reader must know before the numbers: what is missing, then the automatic warnings, then the data's own."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.halves import effect_by_half
from caa_bench.analysis.warn import RANK, find_warnings
from caa_bench.analysis.warn_answers import answer_warnings
from caa_bench.analysis.warn_facts import RunFacts, Tables
from caa_bench.analysis.warn_metrics import metric_warnings
from caa_bench.analysis.warn_rules import length_matters
from caa_bench.report.conditions import of_behavior
from caa_bench.report.headline import Headline, at_headline, headline, measured
from caa_bench.report.matched import uneven_tries
from caa_bench.report.vectors import leading_line

if TYPE_CHECKING:
    from caa_bench.report import Report
    from caa_bench.report.answers import Answers


_REST = {
    False: "run the same command again to finish",
    True: "the command said what failed, and computes the rest once that is mended",
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to know.

    Args:
        severity: `missing` (the run is not whole), `severe`, `caution` or `note`.
        text: one sentence.
    """

    severity: str
    text: str


def notices(report: Report, *, done: Set[str]) -> list[Notice]:
    """Everything to know, worst first. Layers that do not lead are no reason to warn: a sweep is run to find them out.

    Args:
        done: keys of the batches whose rows are there.
    """
    chosen, manifest = headline(report), report.manifest
    layer = chosen.layer
    names = ("cells", "stacking", "shifts", "reliability")
    tables = Tables(**{name: _leading(of_behavior(getattr(report, name)), layer) for name in names})
    facts, behavior = manifest["facts"], manifest["facts"]["behavior"]["id"]
    answers = report.answers
    known = RunFacts(
        test_opened=manifest["test_opened"] or None,
        choice_at_edge=tuple(dict.fromkeys(column for choice in chosen.choices for column in choice.at_edge)),
        open_ended=_open_shifts(answers, layer),
        train_longer_share=facts.get("longer", {}).get("train_share"),
        halves=_halves(report, chosen),
        vector=leading_line(report, chosen),
    )
    found = find_warnings(tables, {behavior: known})
    said = [Notice(severity=warning.severity, text=warning.text) for warning in found]
    counted = [report.cells]
    if answers is not None:
        heard = answer_warnings(_leading(answers.cells, layer), answers.judges)
        said += [Notice(severity=warning.severity, text=warning.text) for warning in heard]
        said += [Notice(severity="missing", text=text) for text in _unjudged(answers)]
        counted.append(answers.cells.assign(n=answers.cells["missing_share"].notna()))  # answered, whatever was judged
    if report.metrics is not None:
        dear = metric_warnings(_leading(report.metrics, layer), tables.shifts)
        said += [Notice(severity=warning.severity, text=warning.text) for warning in dear]
        counted.append(report.metrics.groupby("cell", as_index=False)[["n", "errors", "n_fits"]].max())
    if (uneven := uneven_tries(report, chosen)) is not None:
        said.append(Notice(severity=uneven[0], text=uneven[1]))
    said += [Notice(severity="caution", text=str(line)) for line in facts["warnings"]]
    said += [Notice(severity="note", text=f"Resumed with another version: {x}") for x in manifest["version_changes"]]
    ordered = sorted(said, key=lambda notice: RANK.get(notice.severity, -1))
    scored = pd.concat([table[["n", "errors", "n_fits"]] for table in counted])
    return [*_missing(manifest, scored, done=done), *ordered]


def _unjudged(answers: Answers) -> Iterator[str]:
    for judge in answers.judges[answers.judges["unjudged"] > 0].to_dict("records"):
        yield (
            f"The judge {judge['judge']} has not judged {judge['unjudged']:,} of {judge['answers']:,} answers; the "
            "next run asks for these alone."
        )


def _open_shifts(answers: Answers | None, layer: float | None) -> pd.DataFrame | None:
    """The judged shift of CAA and of each base alone, as the rule that compares them with A/B answers takes it."""
    if answers is None:
        return None
    cells = _leading(answers.cells, layer)
    parts = []
    for effect, lines in (("score_shift", cells["vector"] == "caa"), ("score_total", cells["multiplier"] == 0)):
        names = {f"{effect}{end}": f"shift{end}" for end in ("_low", "_high")}
        columns = ["base", "base_dose", "layer", "multiplier", *names]
        parts.append(cells.loc[lines, columns].rename(columns=names))
    return pd.concat(parts, ignore_index=True)


def _halves(report: Report, chosen: Headline) -> pd.DataFrame | None:
    """The leading dose of the vector alone by the length of the options, where length may have been learned."""
    longer = report.manifest["facts"].get("longer", {})
    if not chosen.doses or longer.get("train_share") is None or not length_matters(longer["train_share"]):
        return None
    cells = measured(report.cells)
    cells = cells[cells["base"] == "none"]
    dose = chosen.doses[-1]
    steered = at_headline(cells[cells["multiplier"] == dose], chosen)
    used = pd.concat([cells[cells["multiplier"] == 0], steered]).set_index("cell")
    items = report.items[report.items["cell"].isin(used.index)]
    how = {"seed": report.manifest["recipe"]["seed"], "draws": report.manifest["recipe"]["draws"]}
    halves = effect_by_half(items, used, longer=longer["items"], **how)
    return halves[(halves["multiplier"] == dose) & (halves["n"] > 0)]


def _leading(table: pd.DataFrame, layer: float | None) -> pd.DataFrame:
    return table[table["layer"].isna() | (table["layer"] == layer)]


def _missing(manifest: dict[str, Any], cells: pd.DataFrame, *, done: Set[str]) -> Iterator[Notice]:
    planned = manifest["facts"]["batches"]
    absent = [key for key in planned if key not in done]
    if absent:
        yield Notice(
            severity="missing",
            text=f"{len(absent)} of {len(planned)} batches are missing (status {manifest['status']}): the numbers are "
            f"of the items that are there; {_REST[manifest['status'] == 'error']}.",
        )
    unseen = len(manifest["facts"]["cells"]) - int(cells.loc[cells["n"] > 0, "n_fits"].sum())
    if unseen > 0:
        yield Notice(
            severity="missing", text=f"{unseen} of {len(manifest['facts']['cells'])} cells have no scored item."
        )
    errors = cells[cells["errors"] > 0]
    if len(errors):
        yield Notice(
            severity="missing",
            text=f"{int(errors['errors'].sum())} answers in {len(errors)} cells are errors and are left out.",
        )
