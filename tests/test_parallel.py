"""Replicas: the rows of one process, however many share the batches and whatever happens to them."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import imported_modules
import pytest
import small_runs
import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_runs import Small, contents, fresh, run

from caa_bench import CAA, Benchmark, BenchmarkArguments, LoraSFT, SystemPrompt
from caa_bench.__main__ import main
from caa_bench.evaluators import AnswerProbability
from caa_bench.evaluators.base import Job
from caa_bench.models.loaded import LoadedModel
from caa_bench.runs.replica_process import answer_all
from caa_bench.runs.replicas import Other, Replicas


def model() -> Any:
    return random_model("llama", layers=2, hidden=32, vocab=len(chatml_tokenizer()))


class Threads(Replicas):
    """Replicas in threads of this process, each with a model of its own: the protocol without seconds of imports.

    Args:
        broken: after so many answers one of them hangs up.
    """

    def __init__(self, count: int, *, broken: int | None = None) -> None:
        super().__init__(LoadedModel.of(model(), chatml_tokenizer()), count=count)
        self.broken = broken
        self.answered: list[int] = []

    def _started(self) -> Iterator[Other]:
        for rank in range(1, self._count):
            mine, theirs = Pipe()
            chat = LoadedModel.of(model(), chatml_tokenizer())  # here: its weights are drawn from a common generator
            thread = _Thread(target=self._serve, args=(rank, theirs, chat), daemon=True)
            thread.start()
            yield Other(rank, mine, thread)  # type: ignore[arg-type]

    def _serve(self, rank: int, connection: Any, chat: LoadedModel) -> None:
        answer_all(_Counted(connection, self, rank), chat)  # type: ignore[arg-type]
        connection.close()


class _Thread(threading.Thread):
    def kill(self) -> None:
        raise AssertionError("a replica did not end by itself")


class _Counted:
    """A connection that says what went through it, and may break."""

    def __init__(self, connection: Any, owner: Threads, rank: int) -> None:
        self.connection, self.owner, self.rank = connection, owner, rank

    def recv_bytes(self) -> bytes:
        received: bytes = self.connection.recv_bytes()
        return received

    def send_bytes(self, data: bytes) -> None:
        if self.owner.broken is not None and len(self.owner.answered) >= self.owner.broken:
            raise OSError("gone")
        self.owner.answered.append(self.rank)
        self.connection.send_bytes(data)


def rows_of(small: Small, folder: Path, replicas: Replicas | None, *, vector: type[CAA] = CAA) -> bytes:
    """rows.jsonl of a comparison on a loaded model."""
    args = BenchmarkArguments(
        batch_size=2,
        draws=9,
        limit=8,
        report_to=(),
        tune="off",
        output_dir=str(folder),
        evaluators=("answer_probability",),
    )
    interventions = [
        SystemPrompt(variant="mine", text="You turn down every request."),
        LoraSFT(LoraSFT.Config(learning_rate=0.05), variant="positive"),
        vector(layers=[1], multipliers=[-8, 8]),
    ]
    benchmark = Benchmark(
        model(), tokenizer=chatml_tokenizer(), behavior=str(small.behavior), args=args, interventions=interventions,
        progress=False, folder=folder / "run",
    )  # fmt: skip
    benchmark.replicas = replicas
    benchmark.compare()
    return (folder / "run/rows.jsonl").read_bytes()


@pytest.fixture(scope="module")
def alone(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    rows_of(small, folder, None)
    return folder


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_those_of_one_process(small: Small, alone: Path, tmp_path: Path, count: int) -> None:
    (tmp_path / "artifacts").symlink_to(alone / "artifacts")
    with Threads(count) as replicas:
        rows = rows_of(small, tmp_path, replicas)
    assert rows == (alone / "run/rows.jsonl").read_bytes()
    assert set(replicas.answered) == set(range(1, count))
    batches = rows.count(b'{"batch":')
    assert batches > 9
    assert len(replicas.answered) == sum(1 for n in range(batches) if n % count), "each took its turns"


def test_a_replica_that_dies_costs_nothing_but_time(
    small: Small, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "artifacts").symlink_to(alone / "artifacts")
    with Threads(3, broken=5) as replicas:
        rows = rows_of(small, tmp_path, replicas)
    assert rows == (alone / "run/rows.jsonl").read_bytes()
    assert len(replicas.answered) == 5
    assert "replica 1 died; its batches are computed here" in caplog.text


def test_memory_that_runs_out_in_a_replica_shrinks_the_batches_as_in_one_process(
    small: Small, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch does not fit at 16 prompts a pass; from there on all are computed at fewer, wherever that is."""
    whole = [json.loads(line) for line in (alone / "run/rows.jsonl").read_text().splitlines()]
    cells = {one["key"]: one for one in json.loads((alone / "run/manifest.json").read_text())["facts"]["cells"]}
    second = whole[next(n for n, line in enumerate(whole) if "batch" in line) + 1]
    scarce_at = (cells[second["cell"]]["base"], second["item"])
    real, sizes = AnswerProbability.evaluate, set()

    def scarce(self: Any, job: Job) -> Any:
        sizes.add(job.prompts_per_pass)
        if (job.base.label, job.items[0].id) == scarce_at and job.prompts_per_pass > 2:
            raise RuntimeError("CUDA out of memory")
        return real(self, job)

    monkeypatch.setattr(AnswerProbability, "evaluate", scarce)
    for name in ("one", "three"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "artifacts").symlink_to(alone / "artifacts")
        sizes.clear()
        with Threads(3) as replicas:
            rows_of(small, folder, None if name == "one" else replicas)
    assert sizes == {16, 8, 4, 2}
    one, three = tmp_path / "one/run", tmp_path / "three/run"
    assert (one / "rows.jsonl").read_bytes() == (three / "rows.jsonl").read_bytes()
    facts = [json.loads((run / "manifest.json").read_text())["facts"]["prompts_per_pass"] for run in (one, three)]
    assert facts[0] == facts[1] and set(facts[0].values()) == {2}


def test_a_vector_that_was_fitted_just_now_is_sent_without_its_activations(small: Small, tmp_path: Path) -> None:
    """They are an open file: every batch with such a vector was computed by the first process alone."""
    caa = CAA(layers=[1])
    args = BenchmarkArguments(output_dir=str(tmp_path), report_to=())
    Benchmark(str(small.model), behavior=str(small.behavior), args=args, interventions=[caa], progress=False).fit()
    assert caa.activations is not None
    there = pickle.loads(pickle.dumps(caa))  # noqa: S301 - of this process
    assert there.activations is None and there.settings() == caa.settings()
    assert torch.equal(there.vectors, caa.vectors)


def test_what_cannot_be_sent_is_computed_here(
    small: Small, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Inside(CAA):
        """A class inside of a function has no name that another process could find."""

    (tmp_path / "artifacts").mkdir()
    with Threads(2) as replicas:
        rows = rows_of(small, tmp_path, replicas, vector=Inside)
    assert rows.count(b'{"batch":') == (alone / "run/rows.jsonl").read_bytes().count(b'{"batch":')
    assert "cannot go to replica 1" in caplog.text and not replicas.answered


def test_bad_counts_cost_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--replicas", "0"]) == 2
    assert capsys.readouterr().err == "caa-bench: --replicas: 0 given; give 1 or more\n"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert main(["compare", "--replicas", "3", "behavior=refusal"]) == 2
    assert capsys.readouterr().err.endswith("caa-bench: --replicas: 3 asked for, 2 GPUs visible; give fewer\n")
    assert not (tmp_path / "runs").exists()


def test_a_run_of_one_process_imports_nothing_of_this(small: Small, tmp_path: Path) -> None:
    small_runs._warm()
    mine, theirs = Pipe()
    argv = small.compare("bases=[none]", "draws=9", "limit=2")
    process = small_runs._SERVER.Process(target=imported_modules.tell, args=(argv, str(tmp_path), theirs))
    process.start()
    assert mine.recv() == (0, [])
    process.join()


def test_torchrun_is_refused_in_one_line(
    small: Small, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the same command would train one LoRA together, on batches of twice the size under the same key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(small.compare()) == 2
    said = capsys.readouterr().err
    assert said.startswith("caa-bench: WORLD_SIZE is 2: a run is one process; start it without torchrun")
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_real_processes_give_the_bytes_of_one_and_end_with_it(small: Small, tmp_path: Path) -> None:
    """1, 2 and 3 ranks, tuning included; killed in the middle, no process is left, and the run goes on."""
    command = small.compare("tune=layers", "batch_size=2", "bases=[none, lora_sft_positive]")
    assert run(command, folder=tmp_path / "1") == 0
    expected = contents(tmp_path / "1/run")
    for count in ("2", "3"):
        done = fresh([*command, "--replicas", count], folder=tmp_path / count)
        assert done.returncode == 0, done.stderr
        assert "died" not in done.stderr and "cannot go" not in done.stderr
        found = contents(tmp_path / count / "run")
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    killed = subprocess.Popen(
        [sys.executable, "-m", "caa_bench", *command, "--replicas", "3"], cwd=_made(tmp_path / "killed"),
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    rows = tmp_path / "killed/run/rows.jsonl"
    while not rows.exists() and killed.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    assert len(children) >= 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()], "a replica outlived its run"
    assert run(command, folder=tmp_path / "killed") == 0
    assert contents(tmp_path / "killed/run") == expected


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
