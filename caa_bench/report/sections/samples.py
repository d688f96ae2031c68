"""The items themselves: what was asked, p in every condition, what was answered; samples.csv, answers.csv, the viewer.

The page holds the conditions that lead, as JSON within a size; the two files hold all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from caa_bench.report.sections import Section, Table
from caa_bench.report.viewing import PLACE, answers_table, embedded, viewer

if TYPE_CHECKING:
    from caa_bench.report.model import Report

SAMPLES = [
    "item", "cell", "evaluator", *PLACE, "p_balanced", "log_odds", "option_mass", "p_given", "p_swapped",
    "letter_locked", "accuracy", "error",
]  # fmt: skip


class Samples(Section):
    """The viewer of items and answers, and the two files behind it."""

    name = "samples"
    title = "Read the items"
    order = 15
    needs = ("items",)

    def tables(self, report: Report) -> Sequence[Table]:
        """None: its lines are in its files, and those that lead in the page's own data."""
        return []

    def finding(self, report: Report) -> str:
        """How many there are, and how many flip."""
        shown = viewer(report)
        flips = sum(one["flips"] for one in shown["items"])
        parts = [f"{len(shown['items'])} items, {flips} change sides of p = .5"] if shown["items"] else []
        parts += [f"{len(shown['questions'])} questions answered in words"] if shown["questions"] else []
        return "; ".join(parts)

    def data(self, report: Report) -> str:
        """What the viewer reads; "" where there is nothing to read."""
        shown = viewer(report)
        return embedded(shown) if shown["items"] or shown["questions"] else ""

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """One line an item and condition, every vector, layer and dose."""
        found = {"samples": samples_table(report)}
        return found if report.answers is None else found | {"answers": answers_table(report)}


def samples_table(report: Report) -> pd.DataFrame:
    """One line an item and condition of every multiple-choice evaluator (samples.csv): `SAMPLES`."""
    own = report.items.merge(report.cells[["cell", "evaluator", *PLACE]], on="cell", how="inner")
    return own.sort_values(["evaluator", "item"], kind="stable")[SAMPLES]
