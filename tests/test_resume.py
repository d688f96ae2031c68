"""Killed, stopped, crowded, run again: a run ends in the same bytes, or says in one line why it does not."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import Small, contents, fresh, manifest, offline, run, start

from caa_bench.__main__ import main
from caa_bench.runs.folder import RowStore


@pytest.fixture(scope="module")
def reference(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of an uninterrupted comparison in a fresh interpreter, with no network where that can be."""
    folder = tmp_path_factory.mktemp("reference")
    finished = fresh(small.compare(), folder=folder, prefix=offline())
    assert finished.returncode == 0, finished.stderr
    return folder


def same(folder: Path, reference: Path) -> None:
    """Every byte of the run and of its artifacts is that of the uninterrupted one, and nothing unfinished is left."""
    for part in ("run", "runs"):
        expected, found = contents(reference / part), contents(folder / part)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while LoRA trains": lambda folder: "fit lora_sft" in (folder / "stderr.txt").read_text(),
    "while an artifact is written": lambda folder: bool(
        list(folder.glob("runs/artifacts/.*unfinished/*/artifact.json"))
    ),
    "between two batches": lambda folder: (folder / "run/rows.jsonl").exists(),
    "while the report is written": lambda folder: (folder / "run/cells.csv").exists(),
}


def test_killed_at_every_stage_and_run_again_the_same_bytes(small: Small, reference: Path, tmp_path: Path) -> None:
    for moment, reached in MOMENTS.items():
        killed = start(small.compare(), folder=tmp_path)
        killed.until(lambda reached=reached: (tmp_path / "stderr.txt").exists() and reached(tmp_path))
        killed.send(signal.SIGKILL)
        assert killed.wait() == 128 + signal.SIGKILL, f"it had ended before it was killed {moment}"
    assert run(small.compare(), folder=tmp_path) == 0
    same(tmp_path, reference)


EVERY_STAGE = (
    "tune=layers", "vectors=[caa, shuffled]", "shuffled.draws=2", "caa.multipliers=[-8, 8]",
    "open_ended.judges=[classifier]", "evaluators=[answer_probability, open_ended]", "open_ended.max_new_tokens=8",
    "bases=[none, lora_sft_positive]",
)  # fmt: skip
"""Fits, a search, two evaluators, a judge and the report."""


@pytest.mark.slow
def test_killed_at_100_random_moments_the_same_bytes(small: Small, tmp_path: Path) -> None:
    """At most three kills a run, each at a random moment of the time that an uninterrupted one took."""
    rng, command = random.Random(0), small.compare(*EVERY_STAGE)
    started = time.monotonic()
    assert run(command, folder=tmp_path / "whole") == 0
    usual_s, kills, stages, number = time.monotonic() - started, 0, set(), 0
    while kills < 100 and number < 100:
        folder = tmp_path / str(number)
        for _ in range(3):
            killed = start(command, folder=folder)
            time.sleep(rng.uniform(0, 0.6 * usual_s))  # what an earlier one left is not done again
            killed.send(signal.SIGKILL)
            kills += killed.wait() == 128 + signal.SIGKILL
            stages |= {last_stage(folder)}
        assert run(command, folder=folder) == 0
        same(folder, tmp_path / "whole")
        shutil.rmtree(folder)
        number += 1
    print(f"{kills} kills in {number} runs, at {sorted(stages)}")
    assert kills >= 100 and stages >= {"fit", "tuning", "evaluation", "judging or report"}


def last_stage(folder: Path) -> str:
    """How far a killed run had come, by what it left."""
    if (folder / "run/judgements.jsonl").exists() or (folder / "run/cells.csv").exists():
        return "judging or report"
    if (folder / "run/rows.jsonl").exists():
        return "evaluation"
    if (folder / "run/tuning").exists() or list(folder.glob("run/tuning*")):
        return "tuning"
    return "fit" if list(folder.glob("runs/artifacts/*")) else "start"


def test_a_stop_finishes_the_step_or_the_batch_and_loses_nothing(small: Small, reference: Path, tmp_path: Path) -> None:
    first = start(small.compare(), folder=tmp_path)
    first.until(lambda: "fit lora_sft" in first.stderr())
    first.send(signal.SIGINT)
    assert first.wait() == 130
    assert "stopping after this batch or step of the fit" in first.stderr()
    assert "nothing is lost: run the same command again" in first.stderr()
    assert not list(tmp_path.glob("runs/artifacts/caa-*")), "no other fit was begun"
    assert manifest(tmp_path / "run")["status"] == "cancelled"

    second = start(small.compare(), folder=tmp_path)
    second.until(lambda: (tmp_path / "run/rows.jsonl").exists())
    second.send(signal.SIGTERM)
    assert second.wait() == 143
    kept = RowStore(tmp_path / "run/rows.jsonl").done
    whole = RowStore(reference / "run/rows.jsonl").done
    assert 0 < len(kept) < len(whole)
    rows = (tmp_path / "run/rows.jsonl").read_bytes()

    assert run(small.compare(), folder=tmp_path) == 0
    assert (tmp_path / "run/rows.jsonl").read_bytes().startswith(rows), "rows were lost"
    same(tmp_path, reference)


def test_a_second_run_of_the_folder_is_refused_and_a_second_signal_stops_at_once(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = small.compare("lora_sft.epochs=1000")
    holder = start(long, folder=tmp_path)
    holder.until(lambda: "fit lora_sft" in holder.stderr())
    monkeypatch.chdir(tmp_path)
    assert main(long) == 2
    said = capsys.readouterr().err
    assert f"run: in use by process {holder.process.pid} on" in said
    assert said.count("\n") == 1

    holder.send(signal.SIGINT)
    holder.until(lambda: "stopping after" in holder.stderr())
    holder.send(signal.SIGINT)
    assert holder.wait() == 130
    assert not list(tmp_path.glob("runs/artifacts/lora*")), "it waited for the fit"


def test_a_folder_holds_one_recipe(
    small: Small, reference: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reference)
    before = contents(reference / "run")
    assert main(small.compare("draws=98")) == 2
    assert capsys.readouterr().err == (
        "caa-bench: run: holds another recipe: draws is 99 there and 98 here; choose another output folder, or delete "
        "this one\n"
    )
    assert contents(reference / "run") == before


def test_a_finished_run_is_not_computed_again(
    small: Small, reference: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No forward pass, because the model is never loaded."""
    monkeypatch.chdir(reference)
    before = contents(reference)
    monkeypatch.setattr("caa_bench.models.model.load_model", lambda chat: pytest.fail("the model was loaded"))
    assert main(small.compare()) == 0
    assert "9 of 9 batches done before" in capsys.readouterr().err
    assert contents(reference) == before


def test_offline_is_really_offline() -> None:
    """The reference run had no network: where this is skipped, that is not shown."""
    if not offline():
        pytest.skip("this system lets nobody make a network namespace")
    reach = [*offline(), "python3", "-c", "import socket; socket.create_connection(('1.1.1.1', 443), 5)"]
    assert b"unreachable" in subprocess.run(reach, capture_output=True, check=False).stderr
