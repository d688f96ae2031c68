"""`launch`: options become jobs, jobs end as their command does, and what is wrong costs one line."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import Small

pytest.importorskip("submitit", reason="launch needs the extra caa-bench[launch]")

from caa_bench.__main__ import main
from caa_bench.commands.launch import axes_of
from caa_bench.commands.launch_local import here, places
from caa_bench.commands.launch_slurm import slurm_parameters
from caa_bench.commands.launch_status import status
from caa_bench.errors import UserError
from caa_bench.runs.jobs import Job
from caa_bench.runs.jobs_matrix import Launch, cells, job_names
from caa_bench.runs.signals import Stop
from caa_bench.runs.test_splits import opening, reserve

DONE = """
import json, os, pathlib
run = pathlib.Path({run!r})
run.mkdir(parents=True, exist_ok=True)
facts = {{"schema": 1, "recipe": {{}}, "recipe_key": "", "versions": {{}}, "version_changes": [], "status": "success"}}
(run / "manifest.json").write_text(json.dumps(facts | {{"test_opened": 0, "test_openings": [], "facts": {{}}}}))
(run / "report.html").write_text("")
print("GPU", os.environ.get("CUDA_VISIBLE_DEVICES"))
"""
"""What a command that ends well leaves, without the seconds of a comparison."""


def job(folder: Path, script: str, *, name: str = "one") -> Job:
    run = str(folder / name / "run")
    command = (sys.executable, "-c", script.format(run=run) if "{run" in script else script)
    return Job(name=name, command=command, run=run, log=str(folder / "logs" / f"{name}.txt"))


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_axes_and_the_rest() -> None:
    axes, rest = axes_of(["model=[a, b/c]", "behavior=refusal", "seeds=[0,1]", "limit=5", "caa.layers=[1,2]"])
    assert axes == {"model": ["a", "b/c"], "behavior": ["refusal"], "seed": ["0", "1"]}
    assert rest == ["limit=5", "caa.layers=[1,2]"]
    matrix = cells(axes)
    assert [cell["seed"] for cell in matrix] == ["0", "1", "0", "1"]
    assert job_names(matrix)[:2] == ["refusal-a-seed0", "refusal-a-seed1"]


def test_names_of_jobs_never_clash() -> None:
    names = job_names(cells({"model": ["x/m", "y/m", "n"], "behavior": ["b"], "seed": ["0"]}))
    assert names[2] == "b-n-seed0"
    assert len(set(names)) == 3 and all(name.startswith("b-m-seed0-") for name in names[:2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--slurm", "partition"], "--slurm: 'partition' is not key=value"),
        (["--slurm", "gpus=none"], "--slurm: gpus: 'none' is no whole number above 0"),
        (["--slurm", "gpus=0"], "--slurm: gpus: '0' is no whole number above 0; leave it out for none"),
        (["--slurm", "gpus=1,gpus=2"], "--slurm: gpus: given twice"),
        (["--slurm", "time=240"], "--slurm: time: '240' is no time; write hours:minutes:seconds"),
        (["--slurm", "time=0:00:00"], "--slurm: time: '0:00:00' is no time"),
        (["--slurm", "ntasks_per_node=2"], "--slurm: ntasks_per_node: launch sets this itself"),
        (["--slurm", "gpus=1", "--workers", "2"], "--slurm: --workers and --gpus are for this machine"),
        (["--workers", "0"], "--workers: give 1 or more"),
        (["--gpus", "1000"], "--gpus: 1000 asked for, "),
        (["seed=[]"], "override: seed: '[]' is an empty list"),
        (["seed=[1,1]"], "override: seed: '[1,1]' is an empty list, or names something twice"),
        (["seed=1", "seeds=2"], "override: seed: given twice"),
        (["tiny"], "override: 'tiny' is not key=value"),
        (["status"], "launch status: give the folder of one launch"),
        (["status", "nowhere"], "nowhere: no jobs.json"),
        (["model=[tiny,/not/here]", "data=own"], "/not/here"),
        (["limitt=5"], "limitt: unknown key; did you mean 'limit'?"),
        (["model=tiny", "seeds=[0,-1]"], "seed: "),
    ],
)
def test_a_mistake_costs_one_line_before_anything_runs(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(["launch", *given], capsys)
    assert not (tmp_path / "runs").exists()


def test_slurm_options_are_submitits() -> None:
    assert slurm_parameters("partition=gpu,gpus=2,cpus=8,mem_gb=64,time=1-02:30:01,account=mine,mail-type=END") == {
        "job_name": "caa-bench",
        "partition": "gpu",
        "gpus_per_node": 2,
        "cpus_per_task": 8,
        "mem": "64GB",
        "time": (24 + 2) * 60 + 31,
        "nodes": 1,
        "additional_parameters": {"account": "mine", "mail-type": "END"},
    }
    assert slurm_parameters("") == {"job_name": "caa-bench", "time": 24 * 60, "nodes": 1}


def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that this process knows it by: of GPUs 5 and 7 alone, the first one is 5."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(None, None) == ["0", "1"] == places(2, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert places(None, None) == ["5", "7"]
    assert places(1, None) == ["5"] == places(None, 1)
    assert places(3, 0) == [None, None, None]
    with pytest.raises(UserError, match="--workers: 3 on 2 GPUs"):
        places(3, None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert places(None, None) == [None]


def test_jobs_run_side_by_side_and_say_how_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "print('loading'); raise SystemExit('caa-bench: no such model')"
    jobs = (job(tmp_path, DONE, name="good"), job(tmp_path, bad, name="bad"))
    launch = Launch(folder=tmp_path, jobs=jobs)
    launch.save()
    assert [one.state for one in jobs] == ["waiting", "waiting"]
    assert here(launch, ["3", "3"]) == 1
    said = capsys.readouterr()
    assert "done: good\n" in said.out and "failed: bad; " in said.out
    assert "not done: bad; caa-bench launch status" in said.err
    assert "GPU 3" in (tmp_path / "logs/good.txt").read_text()
    assert Launch.load(tmp_path) == launch

    assert status([str(tmp_path)]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"done     good  {jobs[0].run}"
    assert shown[1] == f"failed   bad   caa-bench: no such model ({jobs[1].log})"
    assert shown[2] == "1 done, 1 failed, 0 running, 0 waiting"

    healed = Launch(folder=tmp_path, jobs=(job(tmp_path, DONE, name="bad"),))
    assert here(healed, [None]) == 0
    assert healed.jobs[0].state == "done"
    before = (tmp_path / "logs/bad.txt").read_bytes()
    assert here(healed, [None]) == 0
    assert (tmp_path / "logs/bad.txt").read_bytes() == before, "what is done was run again"


def test_a_command_that_the_system_kills_has_failed_and_one_that_was_stopped_waits(tmp_path: Path) -> None:
    killed = job(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", name="killed")
    with pytest.raises(RuntimeError, match="killed: exit -9"):
        killed()
    assert killed.state == "failed"
    assert killed.why == "caa-bench launch: the command ended with exit 137"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        stopped = job(tmp_path, f"raise SystemExit({128 + number})", name=f"stopped{number}")
        with pytest.raises(RuntimeError):
            stopped()
        assert stopped.state == "waiting"


def test_a_folder_is_in_use_only_while_its_process_lives(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from caa_bench.storage.locks import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    run = tmp_path / "one/run"
    run.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert job(tmp_path, "").state == "running"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (run / ".lock-holder.json").exists()
    assert job(tmp_path, "").state == "waiting"
    note = {"pid": os.getpid(), "host": os.uname().nodename, "since": ""}
    (run / ".lock-holder.json").write_text(json.dumps(note))
    assert job(tmp_path, "").state == "waiting", "another process has the number now"
    (run / ".lock-holder.json").write_text(json.dumps(note | {"host": "elsewhere"}))
    assert job(tmp_path, "").state == "running"


def test_openings_of_a_test_split_count_in_the_jobs_order(tmp_path: Path) -> None:
    """Side by side in any order they get the numbers that they get one after another."""
    assert opening(tmp_path / "a", split="s", plan="old", run="old") == 1
    one_by_one = [opening(tmp_path / "a", split="s", plan=f"plan {run}", run=run) for run in ("x", "y", "z")]
    assert one_by_one == [2, 3, 4]

    assert opening(tmp_path / "b", split="s", plan="old", run="old") == 1
    reserve(tmp_path / "b", ["x", "y", "z"])
    reserve(tmp_path / "b", ["x", "y", "z"])  # launched again
    assert opening(tmp_path / "b", split="s", plan="plan z", run="z") == 4
    assert opening(tmp_path / "b", split="other", plan="plan w", run="w") == 1
    assert opening(tmp_path / "b", split="s", plan="plan x", run="x") == 2
    assert opening(tmp_path / "b", split="s", plan="plan y", run="y") == 3
    assert opening(tmp_path / "b", split="s", plan="plan z", run="z") == 4
    assert opening(tmp_path / "b", split="s", plan="later", run="later") == 5


def test_a_dry_run_lists_the_jobs_and_writes_nothing(
    small: Small, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "--dry-run", *small.settings(), "seeds=[0,1]"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(small-model-seed\d): runs/compare/small-model-", said, flags=re.M) == [
        "small-model-seed0",
        "small-model-seed1",
    ]
    assert said.count("  cells: ") == said.count("  time: ") == said.count("  memory: ") == 2
    assert "one after another: about " in said and said.endswith("2 jobs; nothing was run\n")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands as submitit asks them: sbatch keeps the script it is given, sacct says what a file says."""
    place = tmp_path / "slurm"
    place.mkdir()
    _script(place / "srun", "exit 0")
    _script(
        place / "sbatch",
        f"n=$(ls {place} | grep -c '^script'); cp $1 {place}/script$n; echo Submitted batch job $((100 + n))",
    )
    (place / "states").write_text("JobID|State|NodeList\n")
    _script(place / "sacct", f"cat {place}/states")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return place


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_slurm_gets_an_array_and_a_job_that_joins(
    small: Small, cluster: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = [
        "launch",
        *small.settings(),
        "seeds=[0,1]",
        "--slurm",
        "partition=gpu,gpus=1,mem_gb=32,time=4:00:00,qos=low",
    ]
    assert main(asked) == 0
    assert "submitted 2 jobs and one that joins them" in capsys.readouterr().out
    array = (cluster / "script0").read_text()
    wanted = {
        "partition=gpu", "gpus-per-node=1", "mem=32GB", "time=240", "qos=low", "nodes=1", "array=0-1%2",
        "signal=USR2@90", "open-mode=append", "job-name=caa-bench",
    }  # fmt: skip
    assert wanted <= set(re.findall(r"#SBATCH --(\S+)", array))
    assert "submitit.core._submit" in array
    last = (cluster / "script1").read_text()
    assert "--dependency=afterany:100_0:100_1" in last and "gpus" not in last and "--qos=low" in last

    from submitit.core.utils import DelayedSubmission

    (folder,) = (tmp_path / "runs/launches").iterdir()
    kept = [DelayedSubmission.load(path) for path in sorted((folder / "submitit").glob("100_*_submitted.pkl"))]
    assert [one.function for one in kept] == list(Launch.load(folder).jobs)
    assert {one._timeout_countdown for one in kept} == {50}
    again = kept[0]._checkpoint_function()
    assert again.function == kept[0].function, "a preempted job is the same command"

    (cluster / "states").write_text("JobID|State|NodeList\n100_0|RUNNING|a\n100_1|FAILED|a\n")
    assert main(asked) == 0
    assert "submitted 1 jobs and one that joins them; 1 are in the queue already" in capsys.readouterr().out
    assert "--dependency=afterany:100_0:102" in (cluster / "script3").read_text()


def test_what_sbatch_refuses_is_one_line(small: Small, cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _script(cluster / "sbatch", "echo sbatch: error: invalid partition specified: nowhere >&2; exit 1")
    assert main(["launch", *small.settings(), "--slurm", "partition=nowhere"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        "sbatch: error: invalid partition specified: nowhere",
        "caa-bench: --slurm: sbatch refused the jobs and says above why; change the options of --slurm",
    ]
    (cluster / "srun").unlink()
    (cluster / "sbatch").unlink()
    assert "--slurm: no sbatch on this machine" in refused(["launch", *small.settings(), "--slurm", ""], capsys)


def test_a_preempted_job_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    """submitit's own local queue: USR2 asks the command to stop, and the same command is begun again."""
    from submitit import LocalExecutor

    script = (
        "import pathlib, signal, sys, time\n"
        "kept = pathlib.Path({run!r}); kept.parent.mkdir(parents=True, exist_ok=True)\n"
        "if kept.exists(): print('goes on', kept.read_text()); sys.exit(0)\n"
        "def stop(number, frame): kept.write_text('from step 1'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('begun', flush=True); time.sleep(60)\n"
    )
    one = job(tmp_path, script)
    executor = LocalExecutor(folder=tmp_path / "submitit")
    executor.update_parameters(timeout_min=10)
    submitted = executor.submit(one)
    log = Path(one.log)
    limit = time.monotonic() + 30
    while "\nbegun" not in (log.read_text() if log.exists() else "") and time.monotonic() < limit:
        time.sleep(0.02)
    children = Path(f"/proc/{submitted.job_id}/task/{submitted.job_id}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGUSR2)
    assert submitted.result() == 0
    assert log.read_text().count("caa-bench launch: began") == 2
    assert log.read_text().endswith("goes on from step 1\n")


def test_without_submitit_only_the_list_of_jobs_is_there(
    small: Small, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(["launch", *small.settings()], capsys) == (
        "caa-bench: launch: needs the package submitit; pip install 'caa-bench[launch]'\n"
    )
    monkeypatch.undo()


def test_a_notice_of_the_queue_is_weaker_than_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """SLURM tells every process of a job, and the one above then sends SIGTERM: the batch at hand is still finished."""
    stop = Stop()
    stop.request(signal.SIGUSR2, None)
    stop.request(signal.SIGTERM, None)
    assert stop.signal == signal.SIGTERM
    with pytest.raises(SystemExit) as left:
        stop.request(signal.SIGTERM, None)
    assert left.value.code == 143
    alone = Stop()
    alone.request(signal.SIGUSR1, None)
    with pytest.raises(SystemExit) as left:
        alone.leave_if_asked()
    assert left.value.code == 128 + signal.SIGUSR1
