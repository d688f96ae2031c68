"""Interleaved timing: every method once a repetition, so that a busy minute hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# CPU time of the process: on one thread it hardly depends on what else the machine does.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True, eq=False)
class Timed:
    """One method over all repetitions.

    Args:
        seconds: of each repetition.
        result: of the last one.
    """

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


def interleaved(methods: Mapping[str, Callable[[], Any]], repetitions: int, *, clock: str = "wall") -> dict[str, Timed]:
    """Run every method `repetitions` times; a method may return {"seconds": ...} to say what it measured itself."""
    now = CLOCKS[clock]
    names = list(methods)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for repetition in range(repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            _wait()
            start = now()
            results[name] = methods[name]()
            _wait()
            passed = now() - start
            own = results[name].get("seconds") if isinstance(results[name], dict) else None
            seconds[name].append(passed if own is None else own)
    return {name: Timed(seconds=seconds[name], result=results[name]) for name in names}


def ratio(slow: Timed, fast: Timed) -> dict[str, float]:
    """Median, least and greatest of the per-repetition ratios."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
