"""How far the training pairs agree on each vector: vectors.csv, a printed line and the page's section."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caa_bench.report import words
from caa_bench.report.columns import WIDTH
from caa_bench.report.grids import Cell, Grid, GridRow
from caa_bench.report.headline import Headline, at_headline, measured
from caa_bench.report.quotes import vector_key, vector_quote, vector_span

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report

PLACE = ["vector", "vector_behavior", "vector_model"]
SPANS = {"agreement": words.signed, "agreeing_share": words.share, "separability": words.number}
POINTS = {"signal_share": words.share, "norm": words.number, "relative_norm": words.number}
COUNTS = ("n", "n_clusters")


def vector_lines(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """One line a vector that was made from pairs and a layer; empty where no fit left its diagnostics.

    Args:
        manifest: the run's; `diagnostics` in its facts are those of the artifacts.

    Returns:
        `PLACE`, the columns of `analysis.diagnostics.COLUMNS` and `relative_norm`: what multiplier 1 adds, over the
        median norm of the activations there.
    """
    import pandas as pd

    from caa_bench.analysis.diagnostics import COLUMNS, from_lines

    kept = manifest["facts"].get("diagnostics", {})
    sources = {str(cell["vector"]): cell for cell in manifest["facts"]["cells"] if cell["vector"]}
    parts = []
    for label, lines in kept.items():
        source = sources.get(label, {})
        names = {"vector": label} | {name: str(source.get(name) or "") for name in PLACE[1:]}
        parts.append(from_lines(lines).assign(**names))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*PLACE, *COLUMNS])
    return table.assign(relative_norm=table["norm"] / table["residual_norm"])[[*PLACE, *COLUMNS, "relative_norm"]]


def leading_line(report: Report, chosen: Headline) -> dict[str, Any] | None:
    """The headline vector's line at the layer that it is taken from; None where it is not known."""
    if chosen.layer is None:
        return None
    taken = at_headline(measured(report.shifts), chosen)["vector_layer"].dropna().unique()
    layer = float(taken[0]) if len(taken) else chosen.layer
    here = report.vectors[(report.vectors["vector"] == chosen.vector) & (report.vectors["layer"] == layer)]
    return None if here.empty else {str(name): value for name, value in here.iloc[0].items()}


def vector_text(report: Report, chosen: Headline) -> str:
    """The printed line of the headline vector."""
    if chosen.layer is None:
        return ""
    line, name = leading_line(report, chosen), words.vector_name(chosen.vector)
    if line is None:
        return f"Training pairs of {name}: agreement and separability n/a (its fit left none)"
    shown = {name: vector_span(line, name, form) for name, form in SPANS.items()}
    text = (
        f"Training pairs of {name} at layer {words.count(line['layer'])}: mean cosine with the vector "
        f"{shown['agreement']}, positive in {shown['agreeing_share']}; separability d' {shown['separability']}; the "
        f"vector holds {words.share(line['signal_share'])} of what tells a pair's sides apart and is "
        f"{words.number(line['relative_norm'])} of the median activation; n {words.count(line['n'])} pairs of "
        f"{words.count(line['n_clusters'])} items"
    )
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def vectors_grid(report: Report) -> Grid:
    """Every vector and layer."""
    rows = []
    for line in report.vectors.to_dict("records"):
        numbers: list[Cell] = [vector_span(line, name, form) for name, form in SPANS.items()]
        numbers += [vector_quote(line, name, form) for name, form in POINTS.items()]
        numbers += [vector_quote(line, name, words.count) for name in COUNTS]
        names = (str(line["vector"]), words.count(line["layer"]))
        rows.append(GridRow(place="vector", key=vector_key(line), names=names, cells=tuple(numbers)))
    return Grid(
        caption="agreement: mean cosine of a pair's difference with the vector of the other items; separability: d' of "
        "the two sides along it; 95% intervals over items. signal_share: of the mean squared difference; "
        "relative_norm: of the median activation",
        names=("vector", "layer"),
        heads=(*SPANS, *POINTS, *COUNTS),
        rows=tuple(rows),
    )
