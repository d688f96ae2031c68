"""What may be typed: both forms of every key, what was meant where it is wrong, quiet and verbose, and the width."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from published import card_folder
from report_runs import simulate
from small_runs import Small, manifest

import caa_bench
from caa_bench.__main__ import main
from caa_bench.behaviors.folders import find_folder
from caa_bench.commands import registry
from caa_bench.commands.base import run_folders
from caa_bench.commands.list_names import HEADS
from caa_bench.commands.parser import commands_of, parser
from caa_bench.commands.typed import normalized
from caa_bench.errors import UserError
from caa_bench.report import make_report
from caa_bench.tracking.progress import Tables

COMMANDS = commands_of(parser())
BASES = ("none", "system_prompt_positive", "lora_sft_positive")


def parsed(command: str, *words: str) -> dict[str, object]:
    """What a command is told."""
    own = COMMANDS[command]
    return vars(own.parse_args(normalized(words, own)))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, the newer one of 60 items."""
    home = tmp_path_factory.mktemp("simulated")
    for name, items in (("refusal-tiny-0000aaaa", 24), ("refusal-tiny-1111bbbb", 60)):
        folder = simulate(home / "runs/compare" / name, items=items, vectors=("caa", "random"), bases=BASES)
        os.utime(folder / "manifest.json", (items, items))
    return home


@pytest.fixture
def place(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with both, in a terminal of 80 columns."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def said(argv: list[str], capsys: pytest.CaptureFixture[str], *, status: int = 0) -> str:
    """What a command prints, on stderr where it is refused."""
    capsys.readouterr()
    assert main(argv) == status
    found = capsys.readouterr()
    return found.err if status else found.out


@pytest.mark.parametrize("command", ["compare", "check", "fit", "sweep", "tune", "analyze", "show-tokens"])
def test_a_recipe_s_keys_are_options_too(command: str) -> None:
    expected = ["behavior=refusal", "caa.layers=[2, 3]", "share_prefix=false", "seed=1"]
    typed = ["--behavior", "refusal", "--caa.layers=[2, 3]", "--share-prefix", "false", "seed=1"]
    assert parsed(command, *typed, "recipe=smoke")["overrides"] == expected
    assert parsed(command, *typed, "recipe=smoke") == parsed(command, *typed, "--recipe", "smoke")
    assert parsed(command, "dry_run=true")["dry_run"] is True
    assert parsed(command, "dry_run=no")["dry_run"] is False


def test_keys_and_options_come_in_any_order() -> None:
    """argparse takes no free word behind an option once it has some: `limit=2` was "unrecognized"."""
    mixed = parsed("compare", "seed=1", "--dry-run", "limit=2", "--quiet", "behavior=refusal")
    assert mixed == parsed("compare", "seed=1", "limit=2", "behavior=refusal", "--dry-run", "--quiet")
    assert mixed["overrides"] == ["seed=1", "limit=2", "behavior=refusal"]


def test_a_command_s_own_options_are_keys_too() -> None:
    plain = parsed("generate", "Will you?", "--behavior", "refusal", "--multipliers", "-2", "0", "2", "--layer", "3")
    for typed in (
        ["behavior=refusal", "multipliers=[-2, 0, 2]", "layer=3", "Will you?"],
        ["Will you?", "--behavior=refusal", "--multipliers=-2,0,2", "--layer=3"],
        ["Will you?", "--behavior", "refusal", "--multipliers", "-2,0,2", "--layer", "3"],
    ):
        assert parsed("generate", *typed) == plain
    assert plain["multipliers"] == [-2.0, 0.0, 2.0]
    assert parsed("generate", "Is x=3 or x=4?")["question"] == "Is x=3 or x=4?"
    assert parsed("generate", "--", "x=3")["question"] == "x=3"
    assert parsed("generate", "q", "caa.seed=1", "--seed", "2")["override"] == ["caa.seed=1", "seed=2"]
    assert parsed("generate", "q", 'system_prompt.texts.mine="Say no."')["override"] == [
        'system_prompt.texts.mine="Say no."'
    ]
    assert parsed("power", "effect=-0.5", "sd=1")["effect"] == -0.5
    assert parsed("power", "--effect", "-1e-3", "--sd", "1")["effect"] == -0.001
    assert parsed("behavior", "import", "a.csv", "as=x")["behavior"] == "x"
    assert parsed("launch", "--model=[a,b]", "--seed", "[0,1]", "workers=2")["words"] == ["model=[a,b]", "seed=[0,1]"]


WRONG = {
    "a command": (["chekc"], "there is no command 'chekc'; did you mean 'check'?"),
    "a command like no other": (["zzz"], "there is no command 'zzz'; see caa-bench --help"),
    "a step": (["behavior", "imprt", "x"], "behavior: there is no step 'imprt'; did you mean 'import'?"),
    "an option of a recipe's command": (["check", "--dryrun"], "check: there is no option '--dryrun'; did you mean"),
    "a key as an option": (["check", "--behaviour", "refusal"], "override: behaviour: unknown key; did you mean 'beh"),
    "a key without a value": (["check", "--seed"], "'--seed': no value; write '--seed VALUE' or 'seed=VALUE'"),
    "an option": (["power", "--sdd", "1"], "power: there is no option '--sdd'; did you mean --sd?"),
    "an option like no other": (["runs", "--zzz"], "runs: there is no option '--zzz'; see caa-bench runs --help"),
    "a switch with a value": (["check", "dry_run=maybe"], "'dry_run=maybe': --dry-run takes no value"),
    "a dose": (["generate", "q", "multipliers=[1,x]"], "--multipliers: 'x' is no number"),
    "a kind": (["list", "modles"], "list: there is no kind 'modles'; use behaviors, models"),
    "an effect of nothing": (["power", "--effect", "1e-9"], "--effect: no number of items shows an effect of 1e-09"),
    "an effect beyond all": (["power", "--effect", "1e300", "--sd", "1e300"], "--effect: no number of items shows"),
    "a run": (
        ["view", "nosuch"],
        "nosuch: there is no run there; the newest run is runs/compare/refusal-tiny-1111bbbb",
    ),
    "a run of several": (["power", "tiny"], "tiny: there is no run there"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_meant_is_said_in_one_line(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, starts = WRONG[name]
    line = said(argv, capsys, status=2)
    assert line.startswith(f"caa-bench: {starts}")


def test_the_bare_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage: caa-bench" in said([], capsys, status=2)
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"caa-bench {caa_bench.__version__}\n"


def test_list_says_what_each_name_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["list"], capsys)
    assert max(map(len, text.splitlines())) <= 80
    described = json.loads(said(["list", "--json"], capsys))
    assert list(described) == list(HEADS)
    assert all(what.strip() for names in described.values() for what in names.values()), "a name without a word on it"
    assert described["behaviors"]["refusal"].startswith("The answer declines")
    assert list(described["runs"]) == [str(folder) for folder in run_folders(Path("runs"))]
    for name, names in described.items():
        assert f"{name}: {HEADS[name]}" in text.splitlines()
        assert all(f"  {one} " in text for one in names)
    assert list(json.loads(said(["list", "judges", "--json"], capsys))) == ["judges"]


def test_list_shows_behaviors_of_one_s_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those in the working folder, as they are typed; a skeleton too."""
    card_folder(place, "upselling")
    assert main(["behavior", "new", "begun"]) == 0
    named = json.loads(said(["list", "behaviors", "--json"], capsys))["behaviors"]
    assert named["./upselling"] == "What matching means."
    assert named["./begun"] == "its behavior.yaml is not finished"
    assert list(named)[-2:] == ["./begun", "./upselling"]


@pytest.mark.parametrize("typed", ["./upsel", "upsel", "../here/upseling"])
def test_a_misspelt_folder_is_found(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_folder(tmp_path / "here", "upselling")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError) as refused:
        find_folder(typed)
    (line,) = refused.value.lines
    meant = "../here/upselling" if typed.startswith("..") else "./upselling"
    assert line.startswith("behavior: ") and f"did you mean {meant!r}?" in line


def test_runs_are_told_from_their_manifests(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(said(["runs", "--json"], capsys))
    assert [one["folder"][-8:] for one in facts] == ["0000aaaa", "1111bbbb"]
    assert {one["status"] for one in facts} == {"success"}
    assert facts[0]["cells"] == len(manifest(Path(facts[0]["folder"]))["facts"]["cells"])
    (Path(facts[0]["folder"]) / "manifest.json").write_text("{")
    text = said(["runs"], capsys)
    assert "damaged" in text and "runs/compare/refusal-tiny-1111bbbb" in text
    assert "no run under" in said(["runs", "runs=elsewhere"], capsys)


def test_facts_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checked,) = json.loads(said(["check", "--json", "bases=[none]"], capsys))
    assert (checked["behavior"], checked["bases"], checked["items"]["test"]) == ("refusal", ["none"], 210)
    needs = json.loads(said(["power", "--json", "--effect", "0.5"], capsys))
    assert needs["items"] == max(one["items"] for one in needs["stacks"])
    assert {"base", "dose", "n", "alone", "spread", "items"} == set(needs["stacks"][0])
    assert json.loads(said(["power", "--json", "--effect", "0.5", "--sd", "1"], capsys)) == {
        "effect": 0.5, "sd": 1.0, "power": 0.8, "items_to_see": 34, "items_to_settle": 545,
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv",
    [["power"], ["power", "effect=0.5", "sd=1"], ["sweep", "--dry-run"], ["compare", "--dry-run"], ["list"], ["runs"]],
    ids=" ".join,
)
def test_what_is_printed_fits_the_terminal(argv: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(argv, capsys)
    assert [line for line in text.splitlines() if len(line) > 80 and "/" not in line] == []
    assert text.strip()


def test_what_a_report_says_fits_and_ends_with_the_answer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal of 80 columns; what goes to files is 120 wide wherever it is made."""
    report = make_report(run_folders(Path("runs"))[-1])
    texts = []
    for more in ({}, {"quiet": True}, {"verbose": True}):
        Tables(terminal=80, **more).on_report(report=report)
        texts.append(capsys.readouterr().out)
        assert [line for line in texts[-1].splitlines() if len(line) > 80 and "/" not in line] == []
    usual, quiet, verbose = texts
    assert usual.endswith(quiet) and verbose.endswith(quiet)
    assert len(quiet) < len(usual) < len(verbose)
    answer, warnings, where = quiet.strip().split("\n\n")
    assert "raises refusal" in answer and "arm or stack" not in quiet
    assert warnings.startswith("Warnings: ")
    assert where == "open runs/compare/refusal-tiny-1111bbbb/report.html"
    assert 80 < max(map(len, report.text().splitlines())) <= 120


def test_quiet_runs_print_the_answer_alone(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*small.compare("bases=[none]"), "--quiet"]) == 0
    found = capsys.readouterr()
    assert "cells in" not in found.err and "fit caa" not in found.err
    assert found.out.endswith("\nopen run/report.html\n") and "arm or stack" not in found.out


def test_view_prints_the_page_and_opens_it_where_there_is_a_display(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    newest = Path("runs/compare/refusal-tiny-1111bbbb/report.html")
    assert "has no page yet; write it with caa-bench report" in said(["view"], capsys, status=2)
    newest.write_text("<p>")
    assert said(["view"], capsys) == f"{newest}\n" == said(["view", "1111bbbb"], capsys)
    if sys.platform == "linux":
        assert opened == []
    older = Path("runs/compare/refusal-tiny-0000aaaa/report.html")
    newest.rename(older)
    assert main(["view"]) == 0
    found = capsys.readouterr()
    assert found.out == f"{older}\n"
    assert found.err == f"caa-bench: {newest.parent} is newer and has no page: it is being measured, or was stopped\n"
    older.rename(newest)
    assert main(["view"]) == 0 and not capsys.readouterr().err
    monkeypatch.setenv("DISPLAY", ":0")
    assert said(["view", "refusal-tiny-1111bbbb"], capsys) == f"{newest}\n"
    assert opened[-1] == newest.resolve().as_uri()


def test_new_behavior_is_behavior_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = said(["new", "behavior", "politeness", "to=a"], capsys)
    second = said(["behavior", "new", "politeness", "--to", "b"], capsys)
    assert first.replace("a/", "b/") == second
    files = {path.name: path.read_bytes() for path in Path("a/politeness").iterdir()}
    assert files == {path.name: path.read_bytes() for path in Path("b/politeness").iterdir()}


def test_a_place_that_cannot_be_written_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(["new", "behavior", "x", "--to", "runs/compare/refusal-tiny-0000aaaa/rows.jsonl"], capsys, status=2)
    assert line.startswith("caa-bench: runs/compare/refusal-tiny-0000aaaa/rows.jsonl") and line.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_completes(shell: str, tmp_path: Path) -> None:
    """Sourced by the real shell: commands, options, names behind `=` and behind an option."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = subprocess.run(
        [sys.executable, "-m", "caa_bench", "completion", shell], capture_output=True, text=True, check=True
    ).stdout
    assert set(registry()) <= set(script.partition("_caa_bench_commands='")[2].partition("'")[0].split())
    if shell == "zsh":
        done = subprocess.run(["zsh", "-fc", f"autoload compinit; compinit -u; {script}"], check=False)
        assert done.returncode == 0
        return
    for words, expected in {
        ("caa-bench", "comp"): {"compare", "completion"},
        ("caa-bench", "compare", "--dry"): {"--dry-run"},
        ("caa-bench", "compare", "behavior", "=", "ref"): {"refusal"},
        ("caa-bench", "compare", "--recipe", "layer_s"): {"layer_sweep"},
        ("caa-bench", "check", "model", "="): set(caa_bench.models.model.model_names()),  # type: ignore[attr-defined]
        ("caa-bench", "new", "b"): {"behavior"},
    }.items():
        given = " ".join(f"'{word}'" for word in words)
        ask = f"{script}\nCOMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _caa_bench; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == expected, words


def test_colors_only_where_somebody_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from caa_bench.commands.terminal import painted

    class Screen:
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert painted("x", "red", stream=Screen()) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    assert painted("x", "red", stream=io.StringIO()) == "x"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("x", "red", stream=Screen()) == "x"  # type: ignore[arg-type]
