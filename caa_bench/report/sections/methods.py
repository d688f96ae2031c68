"""The section that puts several vector methods side by side: what each does alone at a bounded loss of capability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_bench.analysis.fairness import MOST_LOSS, effect_at_equal_loss
from caa_bench.report import words
from caa_bench.report.figures import GREY
from caa_bench.report.headline import CAPABILITY, by_condition, condition_of
from caa_bench.report.sections import LAYER, Column, Line, N, Section, Table
from caa_bench.storage.drawing import Drawing, panels

if TYPE_CHECKING:
    from caa_bench.report.model import Report

LEAST = 2
"""With fewer methods there is nothing to put side by side."""
MARKS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*", "h", "p", "d", "8")
ENDS = ("", "_low", "_high")
COLUMNS = [
    "direction", "method", "layer", "multiplier", "cell", "p_before", "p_balanced",
    *(f"shift{end}" for end in ENDS), *(f"capability{end}" for end in ENDS), "n", "tries", "within",
]  # fmt: skip


class Methods(Section):
    """Which of the vector methods moves the behavior most?"""

    name = "methods"
    title = "Methods side by side"
    order = 15
    needs = ("shifts",)
    note = (
        "Each method alone on the unchanged model: of its doses toward (or away from) the behavior the one with the "
        f"largest shift, among those whose loss of p(correct) is at most {MOST_LOSS:g} by its interval's upper end, "
        "where capability was measured. A description of these items: nothing is chosen by it."
    )

    def tables(self, report: Report) -> Sequence[Table]:
        """One a direction, the method that moves furthest first."""
        found = methods_table(report)
        costly = bool(found["capability"].notna().any())
        columns = [
            Column(name="method", text=lambda x: words.display(x["method"])),
            LAYER,
            Column(name="multiplier", label="at", text=lambda x: words.or_na(x["multiplier"], words.dose)),
            Column(name="p_balanced", label="p(matching)", text=_levels, definition="before -> after"),
            Column(name="shift", label="shift in log-odds", form=words.signed, interval=True,
                   definition="+ is towards matching; 95% interval over items"),
        ]  # fmt: skip
        if costly:
            columns.append(Column(name="capability", label="change of p(correct)", form=words.signed, interval=True,
                                  behind=CAPABILITY,
                                  definition="what it costs; 95% interval over questions"))  # fmt: skip
        columns += [
            N,
            Column(name="tries", form=words.count, definition="doses of this direction that were measured"),
            Column(name="within", form=words.count, definition="of these, those within the loss"),
        ]
        said = {1: "Towards the behavior", -1: "Away from the behavior"}
        if not found["within"].any():
            asked = words.count(report.measured("cells", CAPABILITY)["n"].max())
            why = f": of no dose the loss is known to be within {MOST_LOSS:g}, with {asked} questions; 100 tell more"
            said = {direction: caption + why for direction, caption in said.items()}
        return [
            Table(frame=own, columns=tuple(columns), caption=caption, file=self.name, key=("direction", "method"))
            for direction, caption in said.items()
            if len(own := found[found["direction"] == direction])
        ]

    def files(self, report: Report) -> dict[str, pd.DataFrame]:
        """methods.csv holds both directions."""
        return {self.name: methods_table(report)} if self.tables_of(report) else {}

    def summary(self, report: Report) -> str:
        """Those that move furthest."""
        return "; ".join(
            f"{table.caption.lower()}: {words.human(line['method'])} {words.interval(line, 'shift', words.signed)}"
            for table in self.tables_of(report)
            if (line := table.lines[0])["shift"] == line["shift"]
        )

    def figures(self, report: Report) -> Sequence[Drawing]:
        """Effect against the change of capability."""
        return list(methods_against_cost(report))


def methods_table(report: Report) -> pd.DataFrame:
    """One line a method and direction, largest shift first; none where fewer than two methods were measured alone.

    Returns:
        `COLUMNS`. `shift` (log-odds, + towards matching) and `capability` (change of p(correct)) of the chosen dose,
        missing where no dose is within the loss.
    """
    doses, found = _measured_alone(report), []
    if doses["vector"].nunique() < LEAST:
        return pd.DataFrame(columns=COLUMNS)
    for direction in (1, -1):
        own = doses[doses["multiplier"] * direction > 0]
        priced = own["capability"].notna().any()
        curve = own.assign(
            arm=own["vector"],
            effect=direction * own["shift"],
            capability_loss=-own["capability"],
            capability_loss_high=-own["capability_low"] if priced else 0.0,
        )
        best = effect_at_equal_loss(curve, budgets=(MOST_LOSS,))
        tries = own.groupby("vector").size()
        best = best.assign(
            direction=direction, method=best["arm"], tries=best["arm"].map(tries), within=best["doses"]
        ).sort_values("effect", ascending=False, kind="stable", na_position="last")
        found.append(best)
    return pd.concat(found, ignore_index=True)[COLUMNS]


def _measured_alone(report: Report) -> pd.DataFrame:
    """Every dose of every vector alone that is no placebo, with p before and after and what it costs."""
    shifts, cells = report.measured("shifts"), report.measured("cells").set_index("cell")
    placebos = set(report.measured("placebos")["vector"]) if len(report.placebos) else set()
    alone = shifts[(shifts["base"] == "none") & (shifts["multiplier"] != 0) & ~shifts["vector"].isin(placebos)]
    plain = shifts[(shifts["base"] == "none") & (shifts["multiplier"] == 0)]
    before = float(cells["p_balanced"].get(plain["cell"].iloc[0])) if len(plain) else float("nan")
    asked = by_condition(report.shifts, CAPABILITY)
    lost = [asked.get(condition_of(line), {}) for line in alone.to_dict("records")]
    return alone.assign(
        p_before=before,
        p_balanced=alone["cell"].map(cells["p_balanced"]),
        **{f"capability{end}": [float(line.get(f"total_p{end}", float("nan"))) for line in lost] for end in ENDS},
    )


def methods_against_cost(report: Report) -> Iterator[Drawing]:
    """Every dose of every method: its shift against its change of p(correct), a method's doses connected."""
    doses = _measured_alone(report).dropna(subset=["capability", "shift"])
    if doses["vector"].nunique() < LEAST:
        return
    figure, axes = panels(1, 1, size=(6.4, 3.6))
    place, titles, series = axes[0], {}, {}
    for number, (method, own) in enumerate(doses.groupby("vector", sort=False)):
        own = own.sort_values("multiplier", kind="stable")
        color, label = f"C{number % 10}", words.human(method)
        gid = f"line-methods-{number}"
        place.plot(own["capability"], own["shift"], linewidth=0.8, color=color, alpha=0.6, gid=gid)
        series[gid] = label
        for count, point in enumerate(own.to_dict("records")):
            gid = f"methods-{point['cell']}"
            mark: dict[str, Any] = {
                "marker": MARKS[number % len(MARKS)],
                "color": color,
                "markersize": 4,
                "linestyle": "",
            }
            place.plot([point["capability"]], [point["shift"]], gid=gid, label="" if count else label, **mark)
            titles[gid] = f"{words.on_top(method, point['multiplier'])}: {_said(point)}"
            series[gid] = label
    place.axhline(0, color=GREY, linewidth=0.6)
    place.axvline(0, color=GREY, linewidth=0.6)
    place.set_xlabel("change of p(correct)")
    place.set_ylabel("shift in log-odds")
    place.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    names = ["cell", "vector", "layer", "multiplier", "shift", "capability"]
    caption = "Every dose of every method alone on the unchanged model: its shift against what it costs"
    yield Drawing(name="methods_against_cost", figure=figure, data=doses[names], caption=caption, titles=titles,
                  series=series)  # fmt: skip


def _said(point: dict[str, Any]) -> str:
    return f"{words.signed(point['shift'])} log-odds, p(correct) {words.signed(point['capability'])}"


def _levels(line: Line) -> str:
    """`.51 -> .84`."""
    if line["p_balanced"] != line["p_balanced"]:
        return "n/a"
    return f"{words.probability(line['p_before'])} -> {words.probability(line['p_balanced'])}"
