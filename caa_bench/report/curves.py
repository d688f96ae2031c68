"""Dose curves: p(matching) of a base at every multiplier of a vector, and the placebos' range beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.analysis.fairness import placebo_band
from caa_bench.report import words
from caa_bench.report.fits import leading_fits
from caa_bench.report.headline import Headline, at_headline, measured, placebos

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

COLUMNS = [
    "base", "base_dose", "vector", "layer", "multiplier", "cell", "n", "p_balanced", "p_balanced_low",
    "p_balanced_high", "placebo_low", "placebo_high",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One base's curve.

    Args:
        name: the base, with its own dose where that is not as fitted.
        base: without it.
        points: `COLUMNS`, by ascending multiplier, the base's own unsteered cell among them.
        fits: `multiplier`, `p_balanced`, `cell`, `fit` and `n` of each fit, where there are several.
    """

    name: str
    base: str
    points: pd.DataFrame
    fits: pd.DataFrame


def curves(report: Report, chosen: Headline) -> list[Curve]:
    """One curve a base at the headline's vector and layer, in the recipe's order."""
    cells, each = measured(report.cells), leading_fits(report, chosen)
    band = placebo_band(measured(report.shifts), placebos=placebos())
    band = band[band["original"] == chosen.vector]
    at = band if chosen.layer is None else band[band["layer"] == chosen.layer]
    at = at.rename(columns={"p_low": "placebo_low", "p_high": "placebo_high"})
    place = ["base", "base_dose", "multiplier"]
    found = []
    for base, base_dose in chosen.bases:
        own = cells[(cells["base"] == base) & (cells["base_dose"] == base_dose)]
        alone = own[own["multiplier"] == 0]
        steered = at_headline(own, chosen) if chosen.vector else own.iloc[:0]
        ids = [*alone["cell"], *steered["cell"]]
        points = own[own["cell"].isin(ids)].sort_values("multiplier", kind="stable")
        points = points.merge(at[[*place, "placebo_low", "placebo_high"]], on=place, how="left")
        still = points["multiplier"] == 0  # a placebo of dose 0 is the base itself
        if points["placebo_low"].notna().any():
            for end in ("placebo_low", "placebo_high"):
                points[end] = points[end].where(~still, points["p_balanced"])
        if len(points):
            dots = each[(each["base"] == base) & (each["base_dose"] == base_dose)]
            found.append(Curve(name=words.named(base, base_dose), base=base, points=points[COLUMNS], fits=dots))
    return found
