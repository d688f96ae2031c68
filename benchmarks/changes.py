"""What a sweep of edits that are no addition costs beside one of additions, and whether sharing the prefix is exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.subject import Settings, Subject
from benchmarks.timing import interleaved, ratio
from caa_bench.engine.changes import Add, AddKeepingNorm, Change, Clamp, Gate, Project, Rotate
from caa_bench.engine.edit import Edit
from caa_bench.engine.low_rank import LowRank
from caa_bench.engine.score import score

ITEMS = 12
CHECKED = 2
"""Items whose full forwards are compared: a forward for each edit."""
CHANGES: dict[str, Callable[[Tensor, float], Change]] = {
    "Add": lambda vector, dose: Add(vector * dose),
    "AddKeepingNorm": lambda vector, dose: AddKeepingNorm(vector * dose),
    "Project": lambda vector, dose: Project(vector, keep=1 - dose / 2),
    "Clamp": lambda vector, dose: Clamp(vector, low=dose - 1, high=dose),
    "Rotate": lambda vector, dose: Rotate(vector, angle=dose / 5),
    "Gate": lambda vector, dose: Gate(vector, Add(vector * dose)),
    "LowRank": lambda vector, dose: _low_rank(vector, dose),
}


def changes(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Every layer x (-1, 1) on 12 items with each kind of change: seconds, cost in additions, exactness of sharing.

    CPU seconds on one thread, since the ratios are near 1.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    items = subject.test[:ITEMS]
    sweeps = {
        name: [[Edit(layer, made(subject.vectors[layer], dose))] for layer in range(subject.layers) for dose in (-1, 1)]
        for name, made in CHANGES.items()
    }
    timed = interleaved(
        {name: partial(score, subject.model, items, sweep) for name, sweep in sweeps.items()},
        settings.repetitions,
        clock="cpu",
    )
    apart = {}
    for name, sweep in sweeps.items():
        full = score(subject.model, items[:CHECKED], sweep, share_prefix=False).logits
        apart[name] = float((full - timed[name].result.logits[:CHECKED]).abs().max())
    torch.set_num_threads(threads)
    return {
        "seconds": {name: one.median for name, one in timed.items()},
        "over additions": {name: ratio(one, timed["Add"]) for name, one in timed.items() if name != "Add"},
        "greatest difference": apart,
    }


def _low_rank(vector: Tensor, dose: float, rank: int = 4) -> LowRank:
    """The vector and its cyclic shifts, made orthonormal, moved by as much as is read along them."""
    rotate = torch.linalg.qr(torch.stack([vector.roll(step) for step in range(rank)], dim=1)).Q.T
    return LowRank(rotate, rotate, torch.full((rank,), float(vector.norm())), dose)
