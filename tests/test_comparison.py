"""One page for many runs: every number traceable to its run's own rows, links relative, text of others escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from report_page import PageReader, compare
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.report import make_report, words
from caa_bench.report.comparison import render_summary, run_names, write_comparison


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("many") / "runs" / "compare"
    bases = ("none", "system_prompt_positive")
    one = simulate(root / "one", items=24, bases=bases)
    two = simulate(root / "two", items=30, bases=bases, behavior="b", title="<b>", matching="<i>", seed=3)
    return [one, two]


def test_many_runs_stand_on_one_page(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, folders)]) == 0
    assert "2 runs on tiny" in capsys.readouterr().out
    page = (tmp_path / "comparison.html").read_text()
    assert "<b></a>" not in page and "&lt;b&gt;" in page
    links = re.findall(r'<a href="([^"]+)"', page)
    assert [(tmp_path / link).resolve() for link in links] == [folder / "report.html" for folder in folders]
    stacks, arms = PageReader(page).tables
    assert [row[1][0] for row in stacks.rows] == ["refusal", "b"]
    lines = {
        name: make_report(folder).arms.set_index("cell") for name, folder in zip(("refusal", "b"), folders, strict=True)
    }
    assert len(arms.rows) == sum(map(len, lines.values()))
    for key, texts in arms.rows:
        run, _, cell = key.partition("|")
        assert texts[0] == run
        for column in ("p_balanced", "shift", "retention"):
            where = f"{key} {column}"
            compare(texts[arms.sources.index(f"arms.{column}")], lines[run].loc[cell], column, where=where)
    for _, texts in stacks.rows:
        own = lines[texts[0]]
        (told,) = own.loc[(own["kind"] == "stack") & (own["multiplier"] == 1), "verdict_words"]
        assert texts[1].startswith(told)


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(folders: list[Path], tmp_path: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        assert main(["report", *map(str, folders), "--page", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [(["{0}", "--page", "x.html"], "is for several runs"), (["{0}", "{1}", "--page", "x.txt"], "ends in .html")],
)
def test_mistakes_are_one_line(
    argv: list[str], problem: str, folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(part.format(*folders) for part in argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_a_heat_map_and_a_forest_plot_hold_every_run(folders: list[Path], tmp_path: Path) -> None:
    """A cell's color is its verdict's, as strong as what is kept; each line of the plot is a line of arms.csv."""
    page = tmp_path / "both.html"
    assert main(["report", *map(str, folders), "--page", str(page)]) == 0
    lines = pd.read_csv(tmp_path / "both_figures" / "forest.csv").set_index("cell")
    assert len(lines) == 4 and set(lines["run"]) == {"refusal", "b"}
    arms = pd.concat([pd.read_csv(folder / "arms.csv") for folder in folders]).set_index("cell")
    for cell, line in lines.iterrows():
        sign = 1 if arms.loc[cell, "multiplier"] > 0 else -1
        assert line["effect"] == pytest.approx(sign * arms.loc[cell, "shift"])
        assert line["effect_low"] < line["effect"] < line["effect_high"]
    looks = re.findall(r'<td class="words (kind-[\w-]+)( kept-\d)?"', page.read_text())
    stacks = [make_report(folder).arms for folder in folders]
    for (kind, kept), table in zip(looks, stacks, strict=True):
        (line,) = table[(table["kind"] == "stack") & (table["multiplier"] == 1)].to_dict("records")
        assert kind == f"kind-{words.verdict_kind(line['verdict']).replace(' ', '-')}"
        assert kept == f" kept-{min(int(line['retention'] * 5), 4)}"
    assert page.read_text().count("<svg") == 1


def test_runs_are_named_by_what_differs(tmp_path: Path) -> None:
    """Behavior always; model, recipe and seed where they differ; what all share stands once at the top."""
    places = {"compare": 0, "open_ended": 0, "again": 3}
    runs = [simulate(tmp_path / "runs" / name / "refusal", items=24, bases=("none",), vectors=("caa",), overrides=[
        f"seed={seed}"]) for name, seed in places.items()]  # fmt: skip
    reports = [make_report(run) for run in runs]
    assert list(run_names(reports)) == [
        "refusal · compare · seed 0", "refusal · open_ended · seed 0", "refusal · again · seed 3"
    ]  # fmt: skip
    assert list(run_names(reports[:2])) == ["refusal · compare", "refusal · open_ended"]
    assert render_summary(reports).startswith("3 runs on tiny")
    write_comparison(reports, tmp_path / "page.html")
    shown = (tmp_path / "page.html").read_text()
    assert "3 behaviors" not in shown and "<dt>behavior</dt><dd>refusal</dd>" in shown
    assert str(tmp_path) not in shown


def test_two_runs_of_one_behavior_keep_their_own_verdicts(tmp_path: Path) -> None:
    """Told apart by the ends of their folders' paths."""
    kept = {"full": 1.0, "none": 0.0}
    runs = [
        simulate(tmp_path / "runs/compare" / name, bases=("none", "system_prompt_positive"), kept={
            "system_prompt_positive": share
        })
        for name, share in kept.items()
    ]  # fmt: skip
    reports = [make_report(run) for run in runs]
    text = render_summary(reports)
    section = text[text.index("Does it still add?") :].splitlines()
    for run, report in zip(runs, reports, strict=True):
        line = report.stacking[(report.stacking["multiplier"] == 1) & (report.stacking["vector"] == "caa")]
        (shown,) = [row for row in section if f"refusal ({run.name})" in row]
        assert line["verdict"].item() in shown
    assert reports[0].stacking["verdict"].tolist() != reports[1].stacking["verdict"].tolist()
