"""Sections for whoever looks closer: items, training pairs, placebos, letters, every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.cells import LOW_MASS
from caa_bench.analysis.verdict import LOCKED_CAVEAT, MASS_CAVEAT
from caa_bench.report import words
from caa_bench.report.attention import leading_pairs
from caa_bench.report.headline import at_headline
from caa_bench.report.sections import BASE, DOSE, LAYER, VECTOR, Column, N, Section, Table

if TYPE_CHECKING:
    from caa_bench.report.model import Report

BIASED = 0.5
"""Log-odds of letter bias that are flagged."""
CURVE = ("base", "base_dose", "vector", "vector_behavior", "vector_model", "vector_layer", "layer")


class Items(Section):
    """How evenly the vector steers the items."""

    name = "items"
    title = "Items"
    order = 130
    needs = ("reliability",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base, then a line an item on the unchanged model, the least steerable first."""
        curves = Table(
            frame=report.at_headline("reliability"),
            columns=(
                BASE,
                Column(name="slope", form=words.signed, interval=True),
                Column(name="slope_sd", label="sd of slopes", form=words.number),
                Column(name="rank_correlation", label="rank correlation", form=words.signed),
                Column(name="anti_steerable_share", label="anti-steerable", form=words.share,
                       definition="items whose slope is negative"),
                N,
            ),
            caption="Per-item slope of the log-odds over the multiplier",
            file="reliability", key=CURVE, where="page",
        )  # fmt: skip
        return [curves, self._each(report)]

    def summary(self, report: Report) -> str:
        """How many go backwards on the unchanged model."""
        own = report.at_headline("reliability")
        own = own[own["base"] == "none"]
        return f"{words.share(own['anti_steerable_share'].iloc[0])} are anti-steerable" if len(own) else ""

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """Every curve and item."""
        return {"reliability": report.reliability, "items": report.item_reliability}

    def _each(self, report: Report) -> Table:
        own = report.at_headline("item_reliability")
        own = own[own["base"] == "none"].sort_values(["slope", "item"], kind="stable")
        cells = report.measured("cells")
        cells = cells[cells["base"] == "none"]
        here = pd.concat([cells[cells["multiplier"] == 0], at_headline(cells, report.headline)]).sort_values(
            "multiplier"
        )
        wide = report.items[report.items["cell"].isin(here["cell"])].pivot(
            index="item", columns="cell", values="p_balanced"
        )
        frame = own.merge(wide.reset_index(), on="item", how="left")
        frame = frame.assign(flag=(frame["slope"] < 0).map({True: "anti-steerable", False: ""}))
        heads = {x["cell"]: f"p at {words.dose(x['multiplier'])}" if x["multiplier"] else "p alone"
                 for x in here.to_dict("records") if x["cell"] in frame}  # fmt: skip
        columns = (
            Column(name="item"),
            Column(name="slope", form=words.signed),
            Column(name="rank_correlation", label="rank correlation", form=words.signed),
            *(Column(name=cell, label=head, form=words.probability, file="rows") for cell, head in heads.items()),
        )
        caption = "Items on the unchanged model, the least steerable first"
        key = ("item", *CURVE)
        return Table(frame=frame, columns=columns, caption=caption, file="items", key=key, where="page", folded=True,
                     flag="flag")  # fmt: skip


class Vectors(Section):
    """Do the training pairs of each vector agree?"""

    name = "vectors"
    title = "Do the training pairs agree?"
    order = 140
    needs = ("vectors",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a vector and layer."""
        spans = {"agreement": words.signed, "agreeing_share": words.share, "separability": words.number}
        points = {"signal_share": words.share, "norm": words.number, "relative_norm": words.number}
        counts = {"n": words.count, "n_clusters": words.count}
        said = {
            "agreement": "mean cosine of a pair's difference with the vector of the other items",
            "agreeing_share": "pairs whose cosine is positive",
            "separability": "d' of the two sides along the vector",
            "signal_share": "of the mean squared difference of a pair",
            "relative_norm": "of the median activation",
        }
        columns = (
            VECTOR, LAYER,
            *(Column(name=x, label=x.replace("_", " "), form=f, interval=True, definition=said[x])
              for x, f in spans.items()),
            *(Column(name=x, label=x.replace("_", " "), form=f, definition=said.get(x, "")) for x, f in points.items()),
            *(Column(name=x, label=x.replace("_", " "), form=f) for x, f in counts.items()),
        )  # fmt: skip
        key = ("vector", "vector_behavior", "vector_model", "layer")
        return [Table(frame=report.vectors, columns=columns, caption="95% intervals over items", file=self.name,
                      key=key, where="page", folded=True)]  # fmt: skip

    def finding(self, report: Report) -> str:
        """The headline vector's line in words."""
        line, name = leading_pairs(report), words.display(report.headline.vector)
        if line is None:
            return ""
        shown = words.interval
        return (
            f"Training pairs of {name} at layer {words.count(line['layer'])}: mean cosine with the vector "
            f"{shown(line, 'agreement', words.signed)}, positive in {shown(line, 'agreeing_share', words.share)}; "
            f"separability d' {shown(line, 'separability')}; the vector holds {words.share(line['signal_share'])} of "
            f"what tells a pair's sides apart, and its norm is {words.number(line['relative_norm'])} of the median "
            f"activation's; n {words.count(line['n'])} pairs of {words.count(line['n_clusters'])} items."
        )


class Placebos(Section):
    """The rank of the headline vector among its placebos."""

    name = "placebos"
    title = "Placebo vectors"
    order = 150
    needs = ("placebos",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a kind of placebo and dose at the layer that leads."""
        of_draws: dict[str, Any] = {"behind": "placebo_draws.csv"}
        columns = (
            Column(name="placebo", label="kind"),
            BASE,
            LAYER,
            DOSE,
            Column(name="draws", form=words.count, **of_draws),
            Column(name="length", form=words.number, **of_draws),
            Column(name="shift", label="effect", form=words.signed),
            Column(name="largest", label="largest placebo", form=words.number, **of_draws),
            Column(name="larger", label="as large", form=words.count, **of_draws),
            Column(name="p_value", label="p", form=lambda value: f"{value:.3f}", **of_draws),
        )
        caption = (
            "Log-odds. p = (1 + placebos as large) / (1 + draws); a vector that means nothing reaches a p of .05 in at "
            "most 5% of runs, at any one dose. Length: the median placebo's over the vector's; shuffled ones "
            "are as long as such labels leave them"
        )
        ranks, chosen = report.placebo_ranks, report.headline
        frame = ranks[(ranks["vector"] == chosen.vector) & (ranks["layer"] == chosen.layer)]
        return [Table(frame=frame, columns=columns, caption=caption, file=self.name, key=("cell", "placebo"))]

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """The ranks of every vector and layer, and every draw."""
        return {"placebos": report.placebo_ranks, "placebo_draws": report.placebos} if len(report.placebos) else {}

    def summary(self, report: Report) -> str:
        """The largest of all, and how many there were."""
        frame = self.tables(report)[0].frame
        draws, largest = words.count(frame["draws"].max()), frame["largest"].max()
        return f"the largest of {draws} of a kind moves the log-odds by {largest:.2f}"


class Letters(Section):
    """Letter bias and option mass: whether the A/B test measures what it should."""

    name = "letters"
    title = "Letters and option mass"
    order = 160
    needs = ("cells",)

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a base and dose at the layer that leads."""
        forms: dict[str, words.Form] = {
            "letter_bias": words.signed, "letter_bias_abs": words.number, "letter_locked": words.share,
            "p_given": words.probability, "p_swapped": words.probability, "option_mass": words.probability,
            "option_mass_min": words.probability, "mass_low_share": words.share, "p_low_bound": words.probability,
            "p_high_bound": words.probability, "n": words.count,
        }  # fmt: skip
        frame = report.leading(report.measured("cells"))
        frame = frame.assign(flag=[", ".join(_trips(cell)) for cell in frame.to_dict("records")])
        columns = (BASE, DOSE, *(Column(name=x, label=x.replace("_", " "), form=form) for x, form in forms.items()))
        caption = "Letter bias (log-odds, + prefers A) and option mass, over both option orders"
        return [Table(frame=frame, columns=columns, caption=caption, file="cells", where="page", flag="flag")]

    def finding(self, report: Report) -> str:
        """How many conditions trip a gate on letters or option mass."""
        tables = self.tables(report)
        tripped = int((tables[0].frame["flag"] != "").sum()) if tables else 0
        return (
            f"{tripped} of {len(tables[0].frame)} conditions trip a gate on letters or option mass." if tripped else ""
        )

    def summary(self, report: Report) -> str:
        """Also where none does."""
        return self.finding(report) or "no condition trips a gate"


class Cells(Section):
    """Every cell: levels and shifts with their intervals."""

    name = "cells"
    title = "Cells"
    order = 170
    needs = ("cells",)

    def tables(self, report: Report) -> Sequence[Table]:
        """All of them."""
        shifts = [name for name in report.shifts if name.startswith(("shift", "total"))]
        frame = report.measured("cells").merge(report.shifts[["cell", *shifts]], on="cell", how="left")
        moved: dict[str, Any] = {"form": words.signed, "interval": True, "file": "shifts"}
        columns = (
            BASE, VECTOR, LAYER, DOSE,
            Column(name="p_balanced", label="p(matching)", form=words.probability, interval=True),
            Column(name="log_odds", label="log-odds", form=words.number, interval=True),
            Column(name="shift", definition="from its own base, log-odds", **moved),
            Column(name="total", definition="from the unchanged model, log-odds", **moved),
            Column(name="option_mass", label="mass", form=words.probability),
            Column(name="saturated_share", label="saturated", form=words.share, definition="items beyond 8 log-odds"),
            *(Column(name=name, form=words.count) for name in ("n", "errors")),
        )  # fmt: skip
        return [Table(frame=frame, columns=columns, caption=words.OF_SHARES, file="cells", where="detail",
                      folded=True)]  # fmt: skip

    def summary(self, report: Report) -> str:
        """How many."""
        cells = report.measured("cells")
        return f"{len(cells)} conditions, {words.count(cells['n'].max())} items each"

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """Whatever was measured in them."""
        cells = report.cells
        if report.answers is not None:
            cells = pd.concat([cells, report.answers.cells], ignore_index=True)
        return {"cells": cells, "shifts": report.shifts}


def _trips(cell: dict[str, Any]) -> Iterator[str]:
    if cell["mass_low_share"] > MASS_CAVEAT:
        yield f"option mass under {LOW_MASS:g}"
    if cell["letter_locked"] > LOCKED_CAVEAT:
        yield "follows the letter"
    if cell["letter_bias_abs"] > BIASED:
        yield "letter bias"
