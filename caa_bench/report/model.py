"""A report: the tables of a run, and what of them leads, each computed once."""

from __future__ import annotations

import html
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from caa_bench.analysis.placebos import placebo_band, placebo_ranks
from caa_bench.analysis.warn import RANK
from caa_bench.errors import UserError
from caa_bench.report.arms import arms_table
from caa_bench.report.attention import Notice, find_notices
from caa_bench.report.choices import equal_loss_table, matched_table
from caa_bench.report.headline import MEASURE, Headline, at_headline, find_headline, in_order, measured
from caa_bench.report.tables import Contrast, Tables, contrast, make_tables, nothing_yet
from caa_bench.runs.folder import read_manifest
from caa_bench.runs.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
STACKS = (
    "base", "vector", "layer", "multiplier", "n", "p_before", "p_after", "alone", "alone_low", "alone_high", "on_top",
    "on_top_low", "on_top_high", "retention", "retention_low", "retention_high", "verdict",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report(Tables):
    """What a run shows: its tables and, worked out when first asked for, what of them leads.

    Args:
        folder: the run folder.
        record: what its manifest says.
        notices: what a reader must know, worst first.

    Example:
        >>> from pathlib import Path
        >>> from caa_bench.report import make_report
        >>> report = make_report(Path("runs/compare/refusal"))  # doctest: +SKIP
        >>> print(report.text())  # doctest: +SKIP
        >>> report.stacks  # a DataFrame, as every other table  # doctest: +SKIP
    """

    folder: Path
    record: RunRecord
    notices: tuple[Notice, ...] = ()

    def __repr__(self) -> str:
        where = f"{self.record.behavior.id} on {self.record.model}"
        return f"Report({str(self.folder)!r}: {where}, {len(self.cells)} cells, {len(self.notices)} warnings)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer in sentences, and the chart of what stacks; all text is escaped."""
        from caa_bench.report.figures import stacking
        from caa_bench.report.sentence import card
        from caa_bench.storage.drawing import drawing_svg, in_style

        said = "".join(f"<p>{html.escape(one)}.</p>" for one in card(self).sentences)
        with in_style():
            drawn = [drawing_svg(one) for one in stacking(self)][:1]
        return f"<div>{said}{''.join(drawn)}</div>"

    def plot(self) -> Figure:
        """The chart of what stacks, as a matplotlib figure: each base, and the vector on top of it.

        Raises:
            UserError: the run has no vector on a base or on the unchanged model.

        Example:
            >>> report.plot().savefig("stacking.png")  # doctest: +SKIP
        """
        from caa_bench.report.figures import stacking
        from caa_bench.storage.drawing import in_style

        with in_style():
            drawn = next(iter(stacking(self)), None)
        if drawn is None:
            raise UserError(f"{self.folder}: nothing to plot; the run has no vector on a base (see report.cells)")
        return drawn.figure

    @property
    def stacks(self) -> pd.DataFrame:
        """`stacking` in the columns that one looks at first: a line a vector, layer and dose on a base.

        `alone` and `on_top` are the vector's effect on the unchanged model and on the base, in log-odds and in the
        dose's own direction; `retention` is the second over the first. docs/numbers.md has the other columns.

        Example:
            >>> report.stacks.query("base == 'system_prompt_positive'")  # doctest: +SKIP
        """
        return self.measured("stacking")[list(STACKS)].reset_index(drop=True)

    @cached_property
    def headline(self) -> Headline:
        """What leads."""
        return find_headline(self.record, self.shifts)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One line an arm alone and a stack, at the headline's layer and doses (arms.csv)."""
        return arms_table(self)

    @cached_property
    def band(self) -> pd.DataFrame:
        """Range of the headline vector's placebos by base, layer and multiplier; empty where none ran."""
        draws = self.measured("placebos")
        return placebo_band(draws[draws["original"] == self.headline.vector])

    @cached_property
    def placebo_ranks(self) -> pd.DataFrame:
        """The rank of each vector among its placebos, a line a kind, layer and dose (placebos.csv).

        `length`: the placebos' median length over the vector's.
        """
        ranks = placebo_ranks(self.measured("shifts"), self.measured("placebos"))
        at = zip(ranks["placebo"], ranks["layer"], strict=True)
        return ranks.assign(length=pd.Series([self.record.placebo_length(*one) for one in at], dtype=float))

    @cached_property
    def matched(self) -> pd.DataFrame:
        """One line a base, of a selection split with several doses (matched.csv); empty elsewhere."""
        return matched_table(self)

    @cached_property
    def equal_loss(self) -> pd.DataFrame:
        """One line an arm and budget, where capability was measured (equal_loss.csv); empty elsewhere."""
        return equal_loss_table(self)

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, worked out when first asked for: text, page and CSV files show the same tables."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @property
    def asked(self) -> tuple[int, int]:
        """Items of the largest A/B cell, and their clusters; 0 where there was no A/B test."""
        cells = self.measured("cells")
        return (int(cells["n"].max()), int(cells["n_clusters"].max())) if len(cells) else (0, 0)

    @property
    def grave(self) -> int:
        """How many warnings are severe."""
        return sum(notice.severity in ("missing", "severe") for notice in self.notices)

    def measured(self, name: str, evaluator: str = MEASURE) -> pd.DataFrame:
        """A table's lines of one evaluator, bases in the recipe's order; others share them, so change a copy."""
        return self.once(
            (name, evaluator), lambda: in_order(measured(getattr(self, name), evaluator), self.record.bases)
        )

    def at_headline(self, name: str) -> pd.DataFrame:
        """A table's lines of the answer probability with the headline's vector at its layer."""
        return at_headline(self.measured(name), self.headline)

    def leading(self, table: pd.DataFrame) -> pd.DataFrame:
        """The bases alone and the headline vector's lines, base by base in the recipe's order, by ascending dose."""
        steered = at_headline(table, self.headline)
        here = table[(table["multiplier"] == 0) | table.index.isin(steered.index)]
        return in_order(here.sort_values(["base_dose", "multiplier"], kind="stable"), self.record.bases)

    def contrast(self, weights: dict[str, float]) -> Contrast:
        """The weighted sum of cells' log-odds, item by item, with its interval."""
        return contrast(self, weights, self.record.how)

    def text(self, *, detail: bool = False, timings: bool = True) -> str:
        """The tables as printed.

        Args:
            detail: every vector, layer and dose and not only those that lead.
            timings: with fit seconds, which are not the same in two runs.
        """
        from caa_bench.report.text import render

        return render(self, detail=detail, timings=timings)


def plain_strings() -> AbstractContextManager[None]:
    """Tables made inside hold their texts as Python strings: read line by line, they take a fifth less time so."""
    return pd.option_context("mode.string_storage", "python")


def make_report(folder: Path) -> Report:
    """The tables of a run folder, computed but not written.

    Raises:
        UserError: no run folder, one that is damaged, or one without a finished batch.
    """
    manifest = read_manifest(folder)
    if "cells" not in manifest["facts"]:
        raise nothing_yet(folder, status=manifest["status"])
    record = RunRecord.of(manifest)
    with plain_strings():
        tables: dict[str, Any] = vars(make_tables(folder, record))
        report = Report(folder=folder, record=record, **tables)
        notices = sorted(find_notices(report), key=lambda notice: RANK.get(notice.severity, -1))
    return replace(report, notices=tuple(notices))
