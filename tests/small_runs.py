"""Small comparisons for tests: what to run, warm processes to run it in, and what a run folder holds.

A fresh process needs seconds for its imports, so `start` forks the real command from a server that did them once;
`fresh` is a fresh interpreter, for what depends on one.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 300
_TIMING = re.compile(rb"<span[^>]*data-timing>.*?</span>")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["small_runs_warm"])


def _warm() -> None:
    """Start the server where its preload is found: Python before 3.13 looks for it on PYTHONPATH alone, and what it
    does not find it leaves out silently; commands would then run with other thread counts than `fresh` ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        forkserver.ensure_running()


@dataclass(frozen=True, kw_only=True)
class Small:
    """A tiny random model and behavior.

    Args:
        model / behavior: their folders.
    """

    model: Path
    behavior: Path

    def settings(self, *more: str) -> list[str]:
        """Recipe overrides of a comparison with a prompt, an adapter and a vector; `more` wins."""
        chosen = {
            "model": str(self.model),
            "behavior": str(self.behavior),
            "bases": "[none, system_prompt_positive, lora_sft_positive]",
            "vectors": "[caa]",
            "evaluators": "[answer_probability]",
            "caa.multipliers": "[-8, 8]",  # of a random model; 1 would move nothing that a test could see
            "lora_sft.learning_rate": "0.05",
            "batch_size": "8",
            "random.draws": "3",  # of placebos; each is an artifact and cells of its own
            "shuffled.draws": "3",
            "draws": "99",
            "tune": "off",
            "report_to": "[]",
        }
        chosen |= dict(setting.split("=", 1) for setting in more)
        return [f"{key}={value}" for key, value in chosen.items()]

    def compare(self, *more: str) -> list[str]:
        """The whole command: results go to `run` under the working folder."""
        return ["compare", "--output", "run", *self.settings(*more)]


def write_small_model(folder: Path) -> Path:
    """A three-block random Llama and a byte-level ChatML tokenizer, saved."""
    from chat_tokenizers import chatml_tokenizer
    from random_models import random_model

    tokenizer = chatml_tokenizer()
    random_model("llama", layers=3, hidden=32, vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class Command:
    """A `caa-bench` command in a process of its own.

    Args:
        process: the process.
        folder: its working folder; what it prints goes to files in there.
    """

    process: BaseProcess
    folder: Path

    def wait(self) -> int:
        """Its exit code; 128 + n where signal n ended it, as a shell says it."""
        self.process.join(TIMEOUT_S)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"still running after {TIMEOUT_S} s: {self.stderr()[-2000:]}")
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, or the process has ended."""
        limit = time.monotonic() + TIMEOUT_S
        while self.process.is_alive() and time.monotonic() < limit and not condition():
            time.sleep(0.002)

    def stdout(self) -> str:
        """What it has printed so far."""
        return _text(self.folder / "stdout.txt")

    def stderr(self) -> str:
        """What it has said so far."""
        return _text(self.folder / "stderr.txt")


def start(argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None) -> Command:
    """Start a command in `folder`; `env` is added to the environment (but libraries are imported already)."""
    return start_call(_main, list(argv), folder=folder, env=env)


def start_call(function: Callable[..., Any], *args: Any, folder: Path, env: Mapping[str, str] | None = None) -> Command:
    """The same with a function of a module of the tests, whose result is thrown away."""
    folder.mkdir(parents=True, exist_ok=True)
    _warm()
    process = _SERVER.Process(target=_called, args=(function, args, str(folder), dict(env or {})), daemon=True)
    process.start()
    return Command(process=process, folder=folder)


def start_copy(copy: Path, argv: Sequence[str], *, folder: Path) -> Command:
    """The same with the package of a copy of the project; a warm process has imported nothing of the package yet."""
    return start_call(_main_of, str(copy), list(argv), folder=folder)


def run_code(code: str, *, folder: Path) -> str:
    """What Python code prints that a user would run as a script in `folder`, in a warm process."""
    done = start_call(_executed, code, folder=folder)
    assert done.wait() == 0, done.stderr()
    return done.stdout()


def run(argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None) -> int:
    """The exit code of a command in a warm process."""
    return start(argv, folder=folder, env=env).wait()


def fresh(
    argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m caa_bench ...` in a fresh interpreter with one thread, behind `prefix` (see `offline`)."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*prefix, sys.executable, "-m", "caa_bench", *argv],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@cache
def offline() -> tuple[str, ...]:
    """What to put in front of a command so that it has no network at all; empty where the system does not allow it."""
    prefix = ("unshare", "--net", "--map-root-user")
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return prefix if allowed else ()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that must be the same however often a run was killed: all but locks, timings and what was printed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        timed = path.name.endswith((".timing.json", "stdout.txt", "stderr.txt")) or "lock" in path.name
        if path.is_file() and not timed:
            found[path.relative_to(folder).as_posix()] = _TIMING.sub(b"", path.read_bytes())
    return found


def manifest(folder: Path) -> dict[str, Any]:
    """A run folder's manifest."""
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return read


def _called(function: Callable[..., Any], args: tuple[Any, ...], folder: str, env: dict[str, str]) -> None:
    assert "small_runs_warm" in sys.modules, "the server is cold"
    # A suite that a shell runs in the background hands on that Ctrl-C is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.update(env)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    function(*args)


def _executed(code: str) -> None:
    exec(compile(code, "example.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - what the project itself wrote


def _main(argv: list[str]) -> None:
    from caa_bench.__main__ import main

    sys.exit(main(argv))


def _main_of(copy: str, argv: list[str]) -> None:
    assert "caa_bench" not in sys.modules
    sys.path.insert(0, copy)
    _main(argv)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
