"""Jobs on SLURM: an array of what is not done, and a last job behind it that joins the runs; through submitit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.commands.launch_status import join
from caa_bench.errors import UserError
from caa_bench.storage.files import read_json, write_json

if TYPE_CHECKING:
    from caa_bench.runs.jobs_matrix import Launch

SUBMITTED = "slurm.json"
REQUEUES = 50
"""How often a job may run out of its time and be queued again; each time it goes on where it stopped."""
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_OWN = {"gpus": "gpus_per_node", "cpus": "cpus_per_task"}
_LAUNCHES = {"array", "error", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "signal"}
"""Options of sbatch that a job depends on; another value would break it."""
_IN_QUEUE = {"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING"}


def slurm_parameters(text: str) -> dict[str, Any]:
    """`partition=gpu,gpus=1,time=4:00:00` -> submitit's parameters of a SLURM job.

    Raises:
        UserError: a part that is no `key=value`, is given twice or is launch's own, or a number or time that cannot be
            read.
    """
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key or not value:
            raise UserError(f"--slurm: {part!r} is not key=value; write partition=gpu,gpus=1,time=4:00:00")
        if key in given:
            raise UserError(f"--slurm: {key}: given twice; give it once")
        if key.replace("_", "-") in _LAUNCHES:
            raise UserError(f"--slurm: {key}: launch sets this itself; take it out")
        given[key] = value
    found: dict[str, Any] = {"job_name": "caa-bench", "time": _minutes(given.pop("time", "24:00:00")), "nodes": 1}
    if "partition" in given:
        found["partition"] = given.pop("partition")
    found |= {name: _whole(key, given.pop(key)) for key, name in _OWN.items() if key in given}
    if "mem_gb" in given:
        found["mem"] = f"{_whole('mem_gb', given.pop('mem_gb'))}GB"
    return found | ({"additional_parameters": given} if given else {})


def need_submitit(*, slurm: bool) -> None:
    """What launching needs is here.

    Raises:
        UserError: submitit, or SLURM's commands, are not.
    """
    from importlib.util import find_spec

    if find_spec("submitit") is None:
        raise UserError("launch: needs the package submitit; pip install 'caa-bench[launch]'")
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if slurm and missing:
        raise UserError(f"--slurm: no {missing[0]} on this machine; launch from a node of the cluster that has it")


def on_slurm(launch: Launch, parameters: dict[str, Any]) -> int:
    """Submit what is neither done nor in the queue, and a last job behind all of it that joins the runs.

    Raises:
        UserError: sbatch refuses the jobs; it has said why.
    """
    from submitit.core.utils import FailedJobError

    ids = _in_queue(launch)
    new = [job for job in launch.left if job.name not in ids]
    try:
        executor = _executor(launch, parameters)
        with executor.batch():
            submitted = [executor.submit(job) for job in new]
        ids |= {job.name: one.job_id for job, one in zip(new, submitted, strict=True)}
        write_json(launch.folder / SUBMITTED, ids)
        small = {key: value for key, value in parameters.items() if key != "gpus_per_node"}
        after = {"dependency": "afterany:" + ":".join(ids.values())} if ids else {}
        small["additional_parameters"] = parameters.get("additional_parameters", {}) | after
        _executor(launch, small).submit(join, launch)
    except FailedJobError:
        raise UserError("--slurm: sbatch refused the jobs and says above why; change the options of --slurm") from None
    kept = len(ids) - len(new)
    print(f"submitted {len(new)} jobs and one that joins them" + (f"; {kept} are in the queue already" * bool(kept)))
    return 0


def _executor(launch: Launch, parameters: dict[str, Any]) -> Any:
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder=launch.folder / "submitit", max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters)
    return executor


def _in_queue(launch: Launch) -> dict[str, str]:
    """Job -> its number in the queue, of those that an earlier launch submitted and SLURM still knows as alive."""
    from submitit import SlurmJob

    path = launch.folder / SUBMITTED
    known: dict[str, str] = read_json(path) if path.is_file() else {}
    left = {job.name for job in launch.left}
    states = {
        name: SlurmJob(folder=Path(launch.folder / "submitit"), job_id=number).watcher.get_state(number, mode="force")
        for name, number in known.items()
        if name in left
    }
    return {name: known[name] for name, state in states.items() if state.split()[0].upper() in _IN_QUEUE}


def _minutes(text: str) -> int:
    match = _TIME.fullmatch(text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    found = days * 24 * 60 + hours * 60 + minutes + bool(seconds)
    if not found:
        raise UserError(f"--slurm: time: {text!r} is no time; write hours:minutes:seconds, like 4:00:00 or 2-00:00:00")
    return found


def _whole(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UserError(f"--slurm: {key}: {text!r} is no whole number above 0; leave it out for none")
    return int(text)
