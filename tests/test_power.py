"""`caa-bench power`: the number first, from a run's own spread or from numbers; mistakes are one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.analysis.power import items_needed, items_to_settle, spread_of_items
from caa_bench.report import make_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("power") / "runs" / "compare" / "refusal")


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["power", *argv]) == 0
    return capsys.readouterr().out


def test_from_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A published case: an effect of 1.5 with a per-item sd of 1.35."""
    said = answer(capsys, "--effect", "0.5", "--sd", "1.35").splitlines()
    assert said[0].startswith(f"{items_needed(0.5, 1.35)} items are needed to see")
    assert said[1].startswith(f"{items_to_settle(0.5, 1.35)} items are needed to settle")
    assert answer(capsys, "--effect", "5", "--sd", "1").startswith("20 items"), "no interval under 20"


def test_from_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a stack at the leading doses; the number for the most demanding one stands in front."""
    table = make_report(folder).stacking
    lines = table[(table["vector"] == "caa") & table["multiplier"].isin([-1, 1])].to_dict("records")
    wanted = [max(items_to_settle(x["alone"], spread_of_items(x["detectable_effect"], x["n"])), 20) for x in lines]
    said = answer(capsys, str(folder))
    assert said.startswith(f'{max(wanted)} items are needed to settle "adds fully"')
    assert "this run has 60 items" in said
    shown = [int(line.split()[-1]) for line in said.splitlines()[3:]]
    assert sorted(shown) == sorted(wanted)
    more = answer(capsys, str(folder), "--effect", "0.1", "--power", "0.9")
    assert int(more.split()[0]) > int(answer(capsys, str(folder), "--effect", "0.1").split()[0])


def test_the_spread_is_the_items_own() -> None:
    """Detectable effect and n give back the sd that they came from."""
    assert spread_of_items(2.8015852 * 1.3 / 60**0.5, 60) == pytest.approx(1.3, rel=1e-6)


@pytest.mark.parametrize(
    ("argv", "problem", "hint"),
    [
        (["--sd", "1"], "--sd: needs --effect too", "that is to be seen"),
        (["--effect", "0", "--sd", "1"], "no number of items shows an effect of 0", "give one that is not 0"),
        (["--effect", "1", "--sd", "-1"], "-1 is no standard deviation", "give 0 or more"),
        (["--effect", "1", "--power", "1"], "--power: 1 is no chance", "such as 0.8"),
        (["run", "--effect", "1", "--sd", "1"], "a run has its own", "leave out"),
        (["nowhere"], "nowhere/manifest.json: cannot be read", "check the path"),
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
