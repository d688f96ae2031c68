"""The dose in words: how it was found, and how large it is beside the activations that it is added to."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.columns import WIDTH, columns
from caa_bench.report.headline import Headline, at_headline, measured
from caa_bench.report.vectors import leading_line
from caa_bench.runs.tuning_record import tuning_lines

if TYPE_CHECKING:
    from caa_bench.report import Report


def tuning_text(report: Report) -> str:
    """What was tried and chosen on the selection split; "" where nothing was."""
    lines = tuning_lines(report.manifest["facts"].get("tuning", {}))
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def dose_text(report: Report, chosen: Headline) -> str:
    """A line a multiplier of the leading vector alone: its share of the residual norm, its effect, the option mass."""
    line = leading_line(report, chosen)
    shifts = measured(report.shifts)
    alone = at_headline(shifts[shifts["base"] == "none"], chosen)
    if chosen.layer is None or line is None or not line["relative_norm"] > 0 or alone.empty or not chosen.vector:
        return ""
    plain = shifts[(shifts["base"] == "none") & (shifts["multiplier"] == 0)]["option_mass"]
    rows = [
        [
            f"{one['multiplier']:+g}",
            words.number(abs(one["multiplier"]) * line["relative_norm"]),
            words.signed(one["shift"]),
            words.probability(one["option_mass"]),
            *([words.number(one["option_mass"] / plain.iloc[0])] if len(plain) else []),
        ]
        for one in alone.sort_values("multiplier").to_dict("records")
    ]
    heads = ["multiplier", "of the residual norm", "shift in log-odds", "option mass", "of the unsteered mass"]
    title = (
        f"Doses of {words.vector_name(chosen.vector)} alone at layer {chosen.layer:.0f}: |multiplier x vector| over "
        "the median norm of the activations there, and what is left of the option mass."
    )
    return "\n".join([textwrap.fill(title, WIDTH), columns(heads[: len(rows[0])], rows)])
