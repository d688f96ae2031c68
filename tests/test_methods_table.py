"""Vector methods side by side: the largest shift of each within the loss, and what is not known stays missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from report_runs import simulate

from caa_bench.report import make_report, write_report
from caa_bench.report.sections.methods import methods_against_cost, methods_table

GRID = {"items": 24, "bases": ("none",), "multipliers": (-1.0, -0.5, 0.5, 1.0),
        "gain": {"caa": 1.0, "repe_pca": 1.4, "random": 0.05}}  # fmt: skip


def test_each_method_stands_at_its_largest_shift_and_no_placebo_stands_there(tmp_path: Path) -> None:
    run = simulate(tmp_path / "runs/compare/refusal", vectors=("caa", "repe_pca", "random"), **GRID)
    write_report(run)
    report = make_report(run)
    found, shifts = pd.read_csv(run / "methods.csv"), report.measured("shifts").set_index("cell")
    assert sorted(found["method"]) == ["caa", "caa", "repe_pca", "repe_pca"]
    for line in found.to_dict("records"):
        own = shifts[(shifts["vector"] == line["method"]) & (shifts["multiplier"] * line["direction"] > 0)]
        assert abs(line["shift"] - (line["direction"] * own["shift"]).max() * line["direction"]) < 1e-6
        assert (line["tries"], line["within"], line["n"]) == (2, 2, 24)
    for _, own in found.groupby("direction"):
        pushed = own["direction"] * own["shift"]
        assert list(pushed) == sorted(pushed, reverse=True)
    text = report.text()
    assert "Methods side by side" in text and "Towards the behavior" in text
    assert max(map(len, text.splitlines())) <= 120
    assert list(methods_against_cost(report)) == [], "nothing was asked about capability"


def test_a_dose_that_costs_too_much_is_left_out(tmp_path: Path) -> None:
    """CAA +1 loses .2 of p(correct); of the other method nothing is known, so that nothing is said of it."""
    changes = {"loss": {("none", 1.0): 0.2}, "vectors": ("caa", "repe_pca")}
    run = simulate(tmp_path / "runs/compare/refusal", **GRID, **changes)
    found = methods_table(make_report(run)).set_index(["direction", "method"])
    assert found.loc[(1, "caa"), "multiplier"] == 0.5
    assert (found.loc[(1, "caa"), "tries"], found.loc[(1, "caa"), "within"]) == (2, 1)
    assert found.loc[(-1, "caa"), "multiplier"] == -1.0
    assert found.loc[(1, "repe_pca"), ["shift", "multiplier", "capability"]].isna().all()


def test_where_no_loss_is_known_to_be_small_it_says_with_how_many_questions(tmp_path: Path) -> None:
    changes = {"loss": {("none", dose): 0.2 for dose in GRID["multipliers"]}, "vectors": ("caa", "repe_pca")}
    report = make_report(simulate(tmp_path / "runs/compare/refusal", **GRID, **changes))
    assert methods_table(report)["shift"].isna().all()
    asked = int(report.measured("cells", "capability")["n"].max())
    said = " ".join(report.text().split())
    assert f"of no dose the loss is known to be within 0.03, with {asked} questions; 100 tell more" in said


def test_one_method_alone_is_no_comparison(tmp_path: Path) -> None:
    run = simulate(tmp_path / "runs/compare/refusal", vectors=("caa", "random"), **GRID)
    assert methods_table(make_report(run)).empty
    assert "Methods side by side" not in make_report(run).text()
