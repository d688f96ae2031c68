"""What a reader must know before the numbers: what is missing, then the automatic warnings, then the data's own."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.analysis.warn import RANK, find_warnings
from caa_bench.analysis.warn_facts import RunFacts, Tables
from caa_bench.report.conditions import of_behavior
from caa_bench.report.headline import headline

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report


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
    layer, manifest = headline(report).layer, report.manifest
    names = ("cells", "stacking", "shifts", "reliability")
    tables = Tables(**{name: _leading(of_behavior(getattr(report, name)), layer) for name in names})
    facts, behavior = manifest["facts"], manifest["facts"]["behavior"]["id"]
    known = RunFacts(test_opened=manifest["test_opened"] or None)
    found = find_warnings(tables, {behavior: known})
    said = [Notice(severity=warning.severity, text=warning.text) for warning in found]
    said += [Notice(severity="caution", text=str(line)) for line in facts["warnings"]]
    said += [Notice(severity="note", text=f"Resumed with another version: {x}") for x in manifest["version_changes"]]
    ordered = sorted(said, key=lambda notice: RANK[notice.severity])
    return [*_missing(manifest, report.cells, done=done), *ordered]


def _leading(table: pd.DataFrame, layer: float | None) -> pd.DataFrame:
    return table[table["layer"].isna() | (table["layer"] == layer)]


def _missing(manifest: dict[str, Any], cells: pd.DataFrame, *, done: Set[str]) -> Iterator[Notice]:
    planned = manifest["facts"]["batches"]
    absent = [key for key in planned if key not in done]
    if absent:
        yield Notice(
            severity="missing",
            text=f"{len(absent)} of {len(planned)} batches are missing (status {manifest['status']}): the numbers are "
            "of the items that are there; run the same command again to finish.",
        )
    unseen = len(manifest["facts"]["cells"]) - int((cells["n"] > 0).sum())
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
