"""`launch` with real comparisons: the bytes of the sequential runs, however often a job is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior
from small_runs import Command, Small, contents, run, start

pytest.importorskip("submitit", reason="launch needs the extra caa-bench[launch]")

from caa_bench import CAA
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.models.loaded import LoadedModel
from caa_bench.runs import artifacts
from caa_bench.runs.artifacts import Artifact, ArtifactStore
from caa_bench.runs.jobs_matrix import Launch


def launch_in(folder: Path) -> Launch:
    (found,) = (folder / "runs/launches").iterdir()
    return Launch.load(found)


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""As in the warm processes of `run`: last bits depend on it."""


def results(folder: Path, run_folder: str) -> dict[str, bytes]:
    """A run's files and all artifacts, what is left of unfinished ones included."""
    artifacts = contents(folder / "runs/artifacts")
    return contents(folder / run_folder) | {f"artifacts/{name}": data for name, data in artifacts.items()}


def other_model(folder: Path) -> Path:
    """As `write_small_model`, with other weights."""
    tokenizer = chatml_tokenizer()
    random_model("llama", layers=3, hidden=32, vocab=len(tokenizer), seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_matrix_gives_the_bytes_of_the_sequential_runs_and_one_page(small: Small, tmp_path: Path) -> None:
    """2 behaviors x 2 models x 2 seeds on 2 workers."""
    other = Small(
        model=other_model(tmp_path / "models" / "other"),
        behavior=write_behavior(tmp_path / "behaviors" / "another", train=10, test=8, selection=4),
    )
    models, behaviors = (str(small.model), str(other.model)), (str(small.behavior), str(other.behavior))
    ready = [one for one in small.settings() if not one.startswith(("model=", "behavior="))]
    one_by_one, together = tmp_path / "one by one", tmp_path / "together"
    for model in models:
        for behavior in behaviors:
            for seed in (0, 1):
                own = [f"model={model}", f"behavior={behavior}", f"seed={seed}"]
                assert run(["compare", *ready, *own], folder=one_by_one) == 0
    axes = [f"model=[{','.join(models)}]", f"behavior=[{','.join(behaviors)}]", "seeds=[0,1]"]
    assert run(["launch", *ready, *axes, "--workers", "2", "--gpus", "0"], folder=together, env=ONE_THREAD) == 0

    launch = launch_in(together)
    assert len(launch.jobs) == 8 and not [job for job in launch.jobs if not (together / job.run).is_dir()]
    for job in launch.jobs:
        expected, found = results(one_by_one, job.run), results(together, job.run)
        assert expected and found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == [], job.name
    page = Path(launch.folder) / "comparison.html"
    runs = [job.run for job in launch.jobs]
    own = one_by_one / page.parent.relative_to(together)
    own.mkdir(parents=True)
    beside = str(own / "comparison.html")
    assert run(["report", *runs, "--page", beside], folder=one_by_one) == 0
    assert page.read_bytes() == Path(beside).read_bytes()
    assert all(f"{job.run.rpartition('/')[2]}/report.html" in page.read_text() for job in launch.jobs)


def descendants(pid: int) -> list[int]:
    """Processes below one, parents first."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def strike(launched: Command, number: signal.Signals) -> None:
    """As a queue does it: SIGKILL takes the whole job; the others reach the command, USR2 submitit's process too."""
    below = descendants(launched.process.pid or 0)
    told = [pid for pid in below if number == signal.SIGKILL or "caa_bench compare" in command_line(pid)]
    if number == signal.SIGUSR2:
        told += [pid for pid in below if "submitit.core._submit" in command_line(pid)]
    for pid in told:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a job's processes in /proc")
def test_a_job_killed_at_random_and_begun_again_ends_in_the_same_bytes_20_times(small: Small, tmp_path: Path) -> None:
    # A LoRA fit that is stopped, not killed, and continued is another test's (test_resume.py)
    settings = small.settings(
        "bases=[none, system_prompt_positive]", "caa.multipliers=[-8,-4,-2,2,4,8]", "batch_size=1"
    )
    command = ["launch", *settings, "seeds=[0]", "--gpus", "0"]
    reference = tmp_path / "reference"
    began = time.monotonic()
    assert run(command, folder=reference, env=ONE_THREAD) == 0
    usual_s = time.monotonic() - began
    (job,) = launch_in(reference).jobs
    expected = results(reference, job.run)
    rng, struck = random.Random(0), 0
    for number in range(20):
        folder = tmp_path / str(number)
        launched = start(command, folder=folder, env=ONE_THREAD)
        time.sleep(rng.uniform(0.2, 1) * usual_s)
        struck += launched.process.is_alive()
        strike(launched, SIGNALS[number % len(SIGNALS)])
        launched.wait()
        assert run(command, folder=folder, env=ONE_THREAD) == 0, launched.stderr()
        found = results(folder, job.run)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == [], number
        shutil.rmtree(folder)
    assert struck >= 15, "most runs had ended before they were struck"


def fit_one(folder: str, behavior: str) -> Artifact:
    """Fit one vector into a store."""
    tokenizer = chatml_tokenizer()
    chat = LoadedModel.of(random_model("llama", layers=2, vocab=len(tokenizer)), tokenizer)
    pairs, store = load_behavior(behavior).pairs(), ArtifactStore(Path(folder))
    return store.fitted(CAA(CAA.Config()), pairs=pairs, model_key=chat.fingerprint(), loaded=lambda: chat)


def fit_and_tell(folder: str, behavior: str, ready: Any, told: Any) -> None:
    """One of two jobs that begin at the same moment."""
    ready.wait()
    artifact = fit_one(folder, behavior)
    told.put((artifact.checksum, artifact.reused))


def test_of_two_jobs_that_fit_the_same_at_once_one_waits(small: Small, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, told = context.Barrier(2), context.SimpleQueue()
    both = [
        context.Process(target=fit_and_tell, args=(str(tmp_path), str(small.behavior), ready, told)) for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    (one_sum, one_reused), (other_sum, other_reused) = told.get(), told.get()
    assert one_sum == other_sum and {one_reused, other_reused} == {True, False}


def test_an_artifact_that_another_machine_wrote_first_is_as_good(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system's locks do not reach both: nothing is mixed, and nothing is left over."""
    plain = fit_one(str(tmp_path / "plain"), str(small.behavior))
    final = tmp_path / "crowded" / plain.folder.name
    places: list[Path] = []
    real = artifacts.write_card

    def other_is_first(made: Path, *rest: Any) -> None:
        real(made, *rest)
        places.append(made)
        shutil.copytree(plain.folder, final)

    monkeypatch.setattr(artifacts, "write_card", other_is_first)
    found = fit_one(str(tmp_path / "crowded"), str(small.behavior))
    assert places[0] != final and str(os.getpid()) in str(places[0]), "it is made in a place of its own"
    assert found.folder == final and found.checksum == plain.checksum
    kept = [path.name for path in (tmp_path / "crowded").iterdir() if not path.name.endswith((".json", ".lock"))]
    assert kept == [final.name]
