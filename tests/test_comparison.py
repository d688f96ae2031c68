"""One page for many runs: every number traceable to its run's own rows, links relative, text of others escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_page import PageReader
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.report import make_report
from caa_bench.report.quotes import line_key
from caa_bench.report.side_by_side import render_summary


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
    assert "2 behaviors on tiny" in capsys.readouterr().out
    page = (tmp_path / "comparison.html").read_text()
    assert "<b></a>" not in page and "&lt;b&gt;" in page
    links = re.findall(r'<a href="([^"]+)"', page)
    assert [(tmp_path / link).resolve() for link in links] == [folder / "report.html" for folder in folders]
    tables = [make_report(folder) for folder in folders]
    levels = {line["cell"]: line for table in tables for line in table.shifts.to_dict("records")}
    for table in tables:
        for line in table.cells.to_dict("records"):
            levels[line["cell"]] = levels[line["cell"]] | line
    shown = [entry for entry in PageReader(page).shown if entry.column in ("p_balanced", "shift", "total")]
    assert len(shown) > 20
    for entry in shown:
        assert entry.value == pytest.approx(levels[entry.keys["cell"]][entry.column], abs=1e-8)
    kept = [entry for entry in PageReader(page).shown if entry.column == "retention"]
    lines = [line for table in tables for line in table.stacking.to_dict("records")]
    for entry in kept:
        own = [line["retention"] for line in lines if line_key(line) == entry.keys["line"]]
        assert any(entry.value == pytest.approx(value, abs=1e-8) for value in own)
    section = page[page.index('id="stacks"') : page.index('id="arms"')]
    told = [line["verdict"] for line in lines if line["multiplier"] == 1 and line["vector"] == "caa"]
    assert len(told) == 2
    assert re.findall(r'data-line="[^"]+">(.*?)(?:, <|<)', section) == told


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


def test_two_runs_of_one_behavior_keep_their_own_verdicts(tmp_path: Path) -> None:
    """Told apart by their folders."""
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
        (shown,) = [row for row in section if str(run) in row]
        assert line["verdict"].item() in shown
    assert reports[0].stacking["verdict"].tolist() != reports[1].stacking["verdict"].tolist()
