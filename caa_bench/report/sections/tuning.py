"""How the layer and the dose were found, and how large the dose is beside the activations that it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from caa_bench.report import words
from caa_bench.report.attention import leading_pairs
from caa_bench.report.sections import DOSE, Column, N, Section, Table
from caa_bench.runs.tuning_record import tuning_lines

if TYPE_CHECKING:
    from caa_bench.report.model import Report


class Tuning(Section):
    """What was tried and chosen on the selection split, in whole sentences."""

    name = "tuning"
    title = "How the layer and the doses were found"
    order = 5

    def tables(self, report: Report) -> Sequence[Table]:
        """A sentence a line; every candidate is in tuning.csv, which the search itself wrote."""
        frame = pd.DataFrame({"told": tuning_lines(report.record.tuning)})
        columns = (Column(name="told", label="what was tried and chosen", wide=True),)
        return [Table(frame=frame, columns=columns, file="tuning_told", key=("told",))]

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """None of its own."""
        return {}


class DoseSizes(Section):
    """Each multiplier of the leading vector in words: its share of the residual norm, and the option mass it leaves."""

    name = "dose_sizes"
    title = "How large the doses are"
    order = 45
    needs = ("vectors", "shifts")
    note = (
        "|multiplier x vector| over the median norm of the activations at that layer, and what is left of the option "
        "mass of the unsteered model."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """A line a multiplier of the vector alone."""
        chosen, pair = report.headline, leading_pairs(report)
        shifts = report.at_headline("shifts")
        alone = shifts[(shifts["base"] == "none") & (shifts["multiplier"] != 0)]
        if chosen.layer is None or pair is None or not pair["relative_norm"] > 0 or alone.empty:
            return []
        every = report.measured("shifts")
        plain = every[(every["base"] == "none") & (every["multiplier"] == 0)]["option_mass"]
        unsteered = plain.iloc[0] if len(plain) else float("nan")
        frame = alone.sort_values("multiplier").assign(
            relative_dose=alone["multiplier"].abs() * pair["relative_norm"],
            mass_kept=alone["option_mass"] / unsteered,
        )
        columns = (
            DOSE,
            Column(name="relative_dose", label="of the residual norm", form=words.number),
            Column(name="shift", label="shift in log-odds", form=words.signed, interval=True),
            Column(name="option_mass", label="option mass", form=words.probability),
            Column(name="mass_kept", label="of the unsteered mass", form=words.number),
            N,
        )
        names = [column.name for column in columns]
        kept = [name for name in ("cell", *names, "shift_low", "shift_high") if name in frame]
        return [Table(frame=frame[kept], columns=columns, file=self.name)]
