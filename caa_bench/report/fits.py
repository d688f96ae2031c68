"""What differs between the fits of a run: the page's section, and the dots of its dose curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, leading, measured
from caa_bench.report.quotes import fit_quote

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report


def count(report: Report) -> int:
    """Fits of each trained intervention."""
    return int(report.manifest["recipe"].get("fits", 1))


def leading_fits(report: Report, chosen: Headline) -> pd.DataFrame:
    """The lines of the bases and of the headline's vector at its layer, in the recipe's order."""
    return leading(measured(report.fits), chosen, report.manifest["recipe"].get("bases", []))


def fits_grid(report: Report, chosen: Headline) -> Grid:
    """Every fit's own level and, on a stack, its own effects."""
    rows = []
    for line in leading_fits(report, chosen).to_dict("records"):
        numbers: list[Cell] = [fit_quote(line, "p_balanced", words.probability)]
        numbers += [fit_quote(line, name, words.signed) for name in ("alone", "on_top", "interaction")]
        numbers.append(fit_quote(line, "n", words.count))
        dose = words.multiplier(line["multiplier"])
        names = (words.named(line["base"], line["base_dose"]), dose, str(line["fit"]))
        rows.append(GridRow(place="fit", key=str(line["cell"]), names=names, cells=tuple(numbers)))
    return Grid(
        caption="Each fit by itself: a finetune of another seed, a vector of another resample of the training items; "
        "effects in log-odds, in the direction of the dose. Intervals above hold these differences",
        names=("base", "multiplier", "fit"),
        heads=("p(matching)", "CAA alone", "CAA on top", "interaction", "n"),
        rows=tuple(rows),
    )
