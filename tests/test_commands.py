"""What commands import, print and leave: quick ones stay light, output in a file is readable, nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import Small, manifest, run, start

from caa_bench.__main__ import main
from caa_bench.commands import registry

HEAVY = ("torch", "transformers", "pandas", "numpy", "scipy", "wandb", "peft", "trl", "datasets", "matplotlib")
QUICK = {
    "help": ["--help"],
    "help of a command": ["compare", "--help"],
    "help of one that speaks": ["generate", "--help"],
    "list": ["list"],
    "runs": ["runs"],
    "version": ["--version"],
    "completion": ["completion", "bash"],
    "check by options": ["check", "--behavior", "refusal", "--limit", "5"],
    "check": ["check", "behavior=refusal"],
    "check of every behavior": ["check", "behavior=all"],
    "dry run": ["compare", "behavior=refusal", "--dry-run"],
    "dry run of a sweep": ["sweep", "behavior=refusal", "--dry-run"],
}


@pytest.mark.parametrize("name", QUICK)
def test_quick_commands_import_nothing_heavy(name: str, tmp_path: Path) -> None:
    """About a second in a fresh interpreter is possible only without these."""
    code = (
        "import sys\nfrom caa_bench.__main__ import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as error:\n    status = error.code\n"
        f"heavy = {set(HEAVY)} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    call = [sys.executable, "-c", code, *QUICK[name]]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_help_has_a_line_a_command() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "caa_bench", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = " ".join(text.split())
    for name, command in registry().items():
        assert f" {name} {command.help} " in listed


def test_a_dry_run_lists_every_cell_that_the_run_then_measures(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = small.compare("bases=[none, system_prompt_positive]", "vectors=[caa, random]", "caa.layers=[0,2]")
    assert main([*settings, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(settings) == 0
    cells = manifest(tmp_path / "run")["facts"]["cells"]
    assert f"cells: {len(cells)}" in said.splitlines()
    for label in {cell["base"] for cell in cells} | {cell["vector"] for cell in cells} - {""}:
        assert label in said
    for words in ("forwards", "time: about", "memory: about"):
        assert words in said


def test_output_to_a_file_is_lines_one_a_fit_and_one_a_cell(small: Small, tmp_path: Path) -> None:
    """No bar, no carriage return, no escape: as in a log of a cluster or of CI."""
    done = start(small.compare("vectors=[caa, random]"), folder=tmp_path)
    assert done.wait() == 0, done.stderr()
    assert not {"\r", "\x1b"} & set(done.stderr() + done.stdout())
    lines = done.stderr().splitlines()
    fits = [line for line in lines if line.startswith("fit ")]
    assert [line.split()[1] for line in fits] == ["lora_sft_positive", "caa", "random"]
    assert all(line.endswith(" s") for line in fits)
    facts = manifest(tmp_path / "run")["facts"]["cells"]
    expected = [
        (cell["base"], "alone")
        if not cell["vector"]
        else (cell["base"], f"{cell['vector']} layer {cell['layer']} x{cell['multiplier']:+g}")
        for cell in facts
        if cell["vector"] != "random"  # a line a draw would be noise
    ]
    measured = [line for line in lines if line.startswith("  ") and " random " not in line]
    assert [(line[2:30].strip(), line[31:57].strip()) for line in measured] == expected
    assert all(" p " in line and " n 24" in line for line in measured)
    noted = [line for line in lines if line.startswith("Layer and dose are the recipe's own")]
    assert len(noted) == 1
    placebos = [line for line in lines if line.startswith("  ") and " random " in line]
    assert len(placebos) <= 2, "not a line a draw"
    assert len(lines) == len(fits) + len(measured) + len(placebos) + 2, "that, and where they go; nothing else"


def test_ctrl_c_while_measuring_keeps_every_finished_batch(small: Small, tmp_path: Path) -> None:
    rows = tmp_path / "run/rows.jsonl"
    stopped = start(small.compare("bases=[none]", "batch_size=1"), folder=tmp_path)
    stopped.until(rows.exists)
    stopped.send(signal.SIGINT)
    assert stopped.wait() == 130
    kept = rows.read_bytes()
    assert kept.count(b"\n") > 1
    assert manifest(tmp_path / "run")["status"] == "cancelled"
    assert run(small.compare("bases=[none]", "batch_size=1"), folder=tmp_path) == 0
    assert rows.read_bytes().startswith(kept)
    assert manifest(tmp_path / "run")["status"] == "success"


def test_ctrl_c_before_work_begins_is_one_line(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("caa_bench.commands.base.load_recipe", interrupted)
    assert main(small.compare()) == 130
    said = capsys.readouterr().err
    assert said == "\ncaa-bench: stopped; run the same command again to continue\n"


def test_several_behaviors_are_one_folder_each_and_one_table(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`behavior=all` runs every folder of configs/behaviors, on a model that is loaded once."""
    from small_behavior import write_behavior

    configs = tmp_path / "configs"
    for name in ("first", "second"):
        write_behavior(configs / "behaviors" / name)
    monkeypatch.setattr("caa_bench.behaviors.folders.configs_folder", lambda: configs)
    monkeypatch.chdir(tmp_path)
    loaded = []
    from caa_bench.models import model

    real = model.load_model
    monkeypatch.setattr(model, "load_model", lambda chat: loaded.append(chat) or real(chat))
    settings = small.settings("behavior=all", "data=own", "bases=[none, system_prompt_positive]", "vectors=[]")
    assert main(["compare", "--output", "out", *settings]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "second"]
    assert len(loaded) == 1
    said = capsys.readouterr().out
    assert all(name in said.rpartition("\n\n")[2] for name in ("first", "second"))
    assert json.loads((tmp_path / "out/first/manifest.json").read_text())["status"] == "success"
