"""(c) The steering-vectors package, in an environment of its own that borrows this one's torch, asked over a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.subject import Settings, Subject
from caa_bench.models.prompts import ChoicePrompt

PACKAGE = "steering-vectors==0.12.2"
FOLDER = Path(__file__).parents[1] / "build" / "steering-vectors-env"


class SteeringVectors:
    """A server process with the subject's model; `extract` and `score` return seconds measured inside it."""

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        subject.model.save_pretrained(self.scratch.name)
        server = Path(__file__).with_name("steering_vectors_server.py")
        self.process = subprocess.Popen(
            [str(_environment()), str(server), self.scratch.name, str(settings.threads), settings.clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()

    def extract(self, prompts: Sequence[ChoicePrompt], *, batch: int) -> dict[str, Any]:
        """Vectors of all layers. {"seconds": float, "out": [L, D]}"""
        pairs = [[[*prompt.ids, letter] for letter in prompt.candidates] for prompt in prompts]
        return self._ask(task="extract", pairs=pairs, batch=batch)

    def score(
        self, prompts: Sequence[ChoicePrompt], conditions: list[tuple[int, float]], vectors: Tensor, *, batch: int
    ):
        """Log-odds. {"seconds": float, "out": [N, C]}"""
        rows = [{"ids": list(prompt.ids), "first": prompt.first_position} for prompt in prompts]
        letters = list(prompts[0].candidates)
        return self._ask(
            task="score", prompts=rows, conditions=conditions, vectors=vectors.tolist(), letters=letters, batch=batch
        )

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
        self.scratch.cleanup()

    def _ask(self, **request: Any) -> dict[str, Any]:
        result = Path(self.scratch.name) / "result.safetensors"
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(json.dumps({**request, "result": str(result)}) + "\n")
        self.process.stdin.flush()
        return {**self._answer(), "out": load_file(result)["out"]}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{PACKAGE}: its process ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment() -> Path:
    """The python of the package's own environment, made on first use (needs the package index once)."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / ".installed").exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        # Its own transformers 4 comes first on the path; torch, the same build, is found behind it.
        lib = FOLDER / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (lib / "host.pth").write_text(str(Path(torch.__file__).parents[1]))
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, stderr=subprocess.DEVNULL)
        (FOLDER / ".installed").touch()
    return python
