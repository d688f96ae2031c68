"""How far a fit is: a bar in a terminal, a line a minute in a file. Pairs done, time left, memory in use."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from caa_bench.storage.safe_text import terminal_safe
from caa_bench.tracking.bars import bar, in_notebook

FIRST_AFTER_S, EVERY_S = 20.0, 60.0
"""A file hears of a fit that takes longer than the first, and then so often."""


class FitProgress:
    """One fit, from `begin` over any number of steps to `end`, on stderr.

    In a terminal nothing stands behind an open line, so that a library's own bar (weights being loaded) cannot
    overwrite it.

    Args:
        terminal: whether lines can be redrawn; by default, whether stderr is one, or a notebook's.
        clock: seconds.
    """

    def __init__(self, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = sys.stderr.isatty() or in_notebook() if terminal is None else terminal
        self._clock = clock
        self._title = ""
        self._bar: Any = None
        self._open = False
        self._begun: tuple[float, int] | None = None
        self._at = (0, 0)  # pairs done, and all
        self._next = 0.0

    def begin(self, title: str) -> None:
        """Print what is fitted now."""
        self._title, self._bar, self._begun, self._open = title, None, None, not self._terminal
        _say(f"{title} ... " if self._open else title, end="" if self._open else "\n")

    def step(self, done: int, total: int, note: str) -> None:
        """So many pairs of all are done."""
        if self._begun is None:  # a continued fit begins in the middle, and what was done before took no time now
            self._begun, self._next = (self._clock(), done), self._clock() + FIRST_AFTER_S
        elif done < self._at[0] or total != self._at[1]:  # another part: it was reading before, and trains now
            self._begun = (self._clock(), done)
            self._close()
        self._at = (done, total)
        if self._terminal:
            self._draw(done, total, note)
        elif self._clock() >= self._next:
            self._next = self._clock() + EVERY_S
            said = [f"{done} of {total} pairs", self._left(done, total), memory(), note]
            _say(("\n" if self._open else "") + "  " + ", ".join(part for part in said if part))
            self._open = False

    def end(self, said: str) -> None:
        """Print how the fit ended."""
        self._close()
        _say(said if self._open else f"{self._title}: {said}")
        self._open = False

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            self._bar = bar(total=total, initial=done, unit="pair", leave=False, smoothing=0)
        self._bar.set_postfix_str(", ".join(part for part in (memory(), terminal_safe(note)) if part), refresh=False)
        self._bar.update(done - self._bar.n)

    def _left(self, done: int, total: int) -> str:
        started, before = self._begun or (self._clock(), done)
        if done == before:
            return ""
        return time_left((self._clock() - started) / (done - before) * (total - done))


def time_left(seconds: float) -> str:
    """In seconds; in minutes where there are many, and with tens of seconds while a minute still says something.

    Example:
        >>> time_left(42.4), time_left(104), time_left(3000)
        ('about 42 s left', 'about 1 min 40 s left', 'about 50 min left')
    """
    if seconds < 100:
        return f"about {seconds:.0f} s left"
    if seconds >= 595:
        return f"about {seconds / 60:.0f} min left"
    minutes, rest = divmod(round(seconds, -1), 60)
    return f"about {minutes:.0f} min {rest:.0f} s left" if rest else f"about {minutes:.0f} min left"


def memory() -> str:
    """What this process holds now, and the GPU's share of it where one is in use."""
    import psutil  # type: ignore[import-untyped]

    said = f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        said += f" and {torch.cuda.memory_reserved() / 1e9:.1f} GB on the GPU"
    return said


def _say(text: str, *, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
