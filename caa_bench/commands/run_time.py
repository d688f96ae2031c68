"""How long a run takes on this machine: operations counted from config.json and the prompts, over a measured speed.

The speed is that of a matrix product of a few tokens, timed for a moment in a process of its own, since a dry run
imports nothing heavy. What of it a model reaches was measured on Qwen2.5-Coder-0.5B: a test holds the estimate there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caa_bench.commands.fit_memory import Shape
    from caa_bench.interventions import Intervention

NO_CONFIG = "not known: the model's config.json is not at hand"
REACHED = 1.0
"""Speed of a whole forward over that of the trial below, whose library is the slower one; measured on a 0.5B model."""
GPU_FLOPS = 1e14
"""Sustained operations a second of a data-center GPU in bf16."""
BESIDE_S, LOADED_A_SECOND = 12.0, 1e9
"""Imports, tables and figures on one core; bytes of weights read a second."""
BLOCK_CALL_S = 5e-4
"""What a call of one block costs beside its arithmetic."""
STEP = {"lora_sft": 2.0}
"""A training step over a forward: the gradients of the weights, the third part, are none of a LoRA's."""
USUAL_STEP = 3.0

TRIAL = """
import time
import numpy
left, right = numpy.ones((256, 1024), "float32"), numpy.ones((1024, 2048), "float32")
taken = []
for _ in range(8):
    begun = time.process_time()
    left @ right
    taken.append(time.process_time() - begun)
print(2 * 256 * 1024 * 2048 / min(taken))
"""


@dataclass(kw_only=True)
class Operations:
    """Work of one part of a run.

    Args:
        token_layers: tokens through one block.
        rows: positions whose logits over the vocabulary are computed.
        block_calls: calls of one block.
    """

    token_layers: float = 0.0
    rows: float = 0.0
    block_calls: float = 0.0

    def flops(self, shape: Shape) -> float:
        """Multiplications and additions."""
        block = 2 * shape.hidden * (2 * shape.queries + 2 * shape.keys + 3 * shape.inner)
        return self.token_layers * block + self.rows * 2 * shape.hidden * shape.vocabulary


@dataclass(frozen=True, kw_only=True)
class RunTime:
    """An estimate.

    Args:
        cores: that it is for.
        seconds: of each part on them, by name, while nothing else runs there.
        gpu_s: of all arithmetic on a data-center GPU.
    """

    cores: int
    seconds: Mapping[str, float]
    gpu_s: float

    @property
    def total_s(self) -> float:
        """All parts together."""
        return sum(self.seconds.values())

    @property
    def parts(self) -> str:
        """How long each part takes."""
        return ", ".join(f"{name} {in_words(own)}" for name, own in self.seconds.items() if own >= 0.5)

    def text(self) -> str:
        """The line of a dry run."""
        cores = "1 CPU core" if self.cores == 1 else f"{self.cores} CPU cores"
        return (
            f"about {in_words(self.total_s)} on {cores} of this machine in float32 ({self.parts}); the arithmetic "
            f"alone {self.gpu_s:,.1f} s on a data-center GPU"
        )


def together(times: Sequence[RunTime]) -> RunTime:
    """Runs one after another, part by part."""
    seconds: dict[str, float] = {}
    for one in times:
        for name, own in one.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + own
    return RunTime(cores=usable_cores(), seconds=seconds, gpu_s=sum(one.gpu_s for one in times))


def run_time(shape: Shape, parts: Mapping[str, Operations]) -> RunTime:
    """The time of a run on the cores that it may use here.

    Args:
        shape: of the model.
        parts: name -> its work.
    """
    cores = usable_cores()
    speed = core_flops() * cores * REACHED
    seconds = {
        name: work.flops(shape) / speed + work.block_calls * BLOCK_CALL_S for name, work in parts.items() if work
    }
    seconds["loading and tables"] = BESIDE_S + (shape.weights or 0) / LOADED_A_SECOND
    return RunTime(cores=cores, seconds=seconds, gpu_s=sum(work.flops(shape) for work in parts.values()) / GPU_FLOPS)


def fitting(interventions: Sequence[Intervention], *, tokens: Sequence[int], layers: int) -> Operations:
    """Every fit: one reading of the pairs for all vectors together, and each finetune's steps.

    Args:
        tokens: of each pair's prompt. [P], P pairs
        layers: of the model.
    """
    work, read = Operations(), False
    for one in interventions:
        if not one.trains or one.placebo_of:
            continue
        own = tokens[: getattr(one.config, "max_pairs", None)]
        epochs = getattr(one.config, "epochs", None)
        if epochs is None and read:
            continue
        read = read or epochs is None
        passes = 1.0 if epochs is None else STEP.get(one.name, USUAL_STEP) * epochs
        batch = 16 if epochs is None else one.config.batch_size
        work.token_layers += passes * sum(own) * layers
        work.block_calls += passes * len(own) / batch * layers
    return work


def in_words(seconds: float) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def usable_cores() -> int:
    """What torch will take: OMP_NUM_THREADS, else the cores that this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(asked), there) if asked.isdigit() and int(asked) else there


@cache
def core_flops() -> float:
    """Operations a second of one core, in float32; CPU time is counted, so that other work there changes little."""
    alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, "-c", TRIAL], env=alone, capture_output=True, text=True, check=True)
    return float(done.stdout)
