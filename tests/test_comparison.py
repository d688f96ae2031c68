"""One page for many runs: every number traceable to its run's own rows, links relative, text of others escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_page import PageReader, compare
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.report import make_report
from caa_bench.report.comparison import render_summary


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
        (told,) = own.loc[(own["kind"] == "stack") & (own["multiplier"] == 1), "told"]
        assert texts[1].startswith(told)


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
