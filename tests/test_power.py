"""`caa-bench power`: the number first, from a run's own spread or from numbers; mistakes are one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.analysis.power import Noise, items_needed, items_to_settle
from caa_bench.commands.power import needs, needs_text
from caa_bench.report import make_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("power") / "runs" / "compare" / "refusal")


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["power", *argv]) == 0
    return capsys.readouterr().out


def test_from_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A published case: an effect of 1.5 with a per-item sd of 1.35."""
    said = " ".join(answer(capsys, "--effect", "0.5", "--sd", "1.35").split())
    assert said.startswith(f"{items_needed(0.5, Noise(items=1.35))} items are needed to see")
    assert f" {items_to_settle(0.5, Noise(items=1.35))} items are needed to settle" in said
    assert answer(capsys, "--effect", "5", "--sd", "1").startswith("20 items"), "no interval under 20"


def test_from_a_run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a stack at the leading doses; the number for the most demanding one stands in front."""
    monkeypatch.setenv("COLUMNS", "120")  # a narrower table is folded into blocks
    table = make_report(folder).stacking
    lines = table[(table["vector"] == "caa") & table["multiplier"].isin([-1, 1])].to_dict("records")
    wanted = [max(items_to_settle(x["alone"], Noise(items=x["spread_items"])), 20) for x in lines]
    said = answer(capsys, str(folder))
    assert said.startswith(f'{max(wanted)} items are needed to settle "adds fully"')
    assert "this run has 60 items" in " ".join(said.split())
    shown = [int(line.split()[-1]) for line in said.partition("\n\n")[2].splitlines()[1:]]
    assert sorted(shown) == sorted(wanted)
    more = answer(capsys, str(folder), "--effect", "0.1", "--power", "0.9")
    assert int(more.split()[0]) > int(answer(capsys, str(folder), "--effect", "0.1").split()[0])


@pytest.mark.parametrize(
    ("changes", "answered"),
    [({}, True), ({"alone": 0.09, "alone_low": 0.03}, False), ({"verdict": "not measurable"}, False)],
)
def test_where_no_number_of_items_settles_it_none_is_asked_for(
    folder: Path, changes: dict[str, Any], *, answered: bool
) -> None:
    """A vector alone of .09 log-odds gets no verdict on what is kept of it, however many items there are."""
    report = make_report(folder)
    for name, value in changes.items():
        report.stacking[name] = value
    found = needs(report, effect=None, power=0.8)
    assert found and all((need.items is not None) == answered for need in found)
    said = needs_text(found, effect=None, power=0.8)
    assert said.startswith("no number of items is enough") != answered
    assert ("more items settle nothing there" in " ".join(said.split())) != answered
    assert all(need.items is not None for need in needs(report, effect=0.1, power=0.8)), "an effect can be asked for"


def test_the_spread_is_the_items_own(folder: Path) -> None:
    """It gives back the detectable effect of a run with one fit: 2.8 sd / sqrt(n)."""
    table = make_report(folder).stacking
    again = 2.8015852 * table["spread_items"] / table["n"] ** 0.5
    assert again.to_numpy() == pytest.approx(table["detectable_effect"].to_numpy(), rel=1e-6)
    assert table["spread_fits"].isna().all()


def test_fits_are_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The noise of few fits does not shrink with items: sd .3 over 3 fits hides an effect of .5 for ever."""
    said = answer(capsys, "--effect", "0.5", "--sd", "1", "--fits", "3", "--fit-sd", "0.3")
    assert said.startswith("no number of items is enough, more fits are needed to see")
    said = answer(capsys, "--effect", "0.5", "--sd", "1", "--fits", "8", "--fit-sd", "0.3")
    n = items_needed(0.5, Noise(items=1.0, fits=0.3 / 8**0.5, n_fits=8))
    assert n is not None and said.startswith(f"{n} items are needed to see")
    assert n > (items_needed(0.5, Noise(items=1.0)) or 0)


@pytest.mark.parametrize(
    ("argv", "problem", "hint"),
    [
        (["--sd", "1"], "--sd: needs --effect too", "that is to be seen"),
        (["--effect", "0", "--sd", "1"], "no number of items shows an effect of 0", "give one of 1e-06 to 1e+06"),
        (["--effect", "1", "--sd", "-1"], "-1 is no standard deviation", "give 0 to 1e+06"),
        (["--effect", "1", "--power", "1"], "--power: 1 is no chance", "such as 0.8"),
        (["--effect", "1", "--sd", "1", "--fit-sd", "1"], "--fit-sd: one fit cannot show it", "give --fits of 2"),
        (["--effect", "1", "--sd", "1", "--fits", "0"], "0 is no number of fits", "give 1 or more"),
        (["--effect", "1", "--fits", "3"], "--fits: a run has its own", "give --sd too"),
        (["run", "--effect", "1", "--sd", "1"], "a run has its own", "leave out"),
        (["nowhere"], "nowhere: there is no run there", "there is no run under runs either"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str],
    problem: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["power", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line and hint in line


def test_a_run_without_stacks_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = simulate(tmp_path / "runs" / "sweep" / "refusal", bases=("none",), items=24)
    assert main(["power", str(run)]) == 2
    assert "holds no stack to ask about" in capsys.readouterr().err
