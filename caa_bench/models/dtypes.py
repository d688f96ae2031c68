"""`dtype: auto` on a CPU: the checkpoint's own dtype, or float32 where this CPU is faster in it and it fits.

Many CPUs have no arithmetic for half precision: measured on one with AVX2, a 0.5B model took 6.7 times as long in the
bfloat16 of its checkpoint as in float32.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HALF = ("bfloat16", "float16")
_BESIDE = 1.3
"""Memory for what stands beside the weights, as a factor."""
_FASTER = 1.5
"""float32 is left alone only where half precision is so many times faster, so that noise does not change the choice."""
_TOKENS, _WIDTH, _TRIES = 64, 1024, 5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `auto` becomes.

    Args:
        dtype: `auto`, the checkpoint's own, or `float32`.
        said: why, where it is not what a user would expect; "" elsewhere.
    """

    dtype: str = "auto"
    said: str = ""


def choose_dtype(config: dict[str, Any] | None, *, weights_bytes: float | None) -> Choice:
    """What `dtype: auto` loads on this machine, by timing a few tokens in both dtypes once a process.

    Args:
        config: the model's config.json; None where it is not at hand.
        weights_bytes: size of the weights as stored; None where that is not known.
    """
    import torch

    stored = str((config or {}).get("dtype") or (config or {}).get("torch_dtype"))
    if stored not in HALF or torch.cuda.is_available() or torch.backends.mps.is_available():
        return Choice()
    slower = _seconds(stored) / _seconds("float32")
    if slower < 1 / _FASTER:
        return Choice()
    needed, there = (weights_bytes or 0) * 2 * _BESIDE, memory_bytes()
    if needed > there:
        return Choice(
            said=f"this CPU computes its {stored} {slower:.1f} times slower than float32, for which "
            f"{needed / 1e9:.1f} GB of memory are needed and {there / 1e9:.1f} GB are there; it stays {stored}"
        )
    return Choice(
        dtype="float32",
        said=f"its weights are {stored}, which this CPU computes {slower:.1f} times slower than float32; it is loaded "
        f"as float32 in twice the memory (loading.dtype={stored} keeps its own)",
    )


def memory_bytes() -> float:
    """The machine's memory, or what the container may use of it."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return total
    return min(total, limit)


@cache
def _seconds(dtype: str) -> float:
    """The fastest of a few products of a few tokens with a matrix; about a tenth of a second in all."""
    import time

    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_TOKENS, _WIDTH, generator=generator).to(getattr(torch, dtype))
    right = torch.randn(2 * _WIDTH, _WIDTH, generator=generator).to(getattr(torch, dtype))
    taken = []
    with torch.no_grad():
        for _ in range(_TRIES):
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            taken.append(time.perf_counter() - started)
    return min(taken)
