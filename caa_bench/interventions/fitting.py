"""What a fit may use beside its model and pairs: where unfinished work is kept, who is told, and whether to stop.

The harness sets it for the time of a fit; an intervention asks for it with `current()`. Without the harness a fit
keeps nothing, tells nobody and is never asked to stop.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

KEEP_EVERY_S = 30.0
"""So much work is lost at most when a fit is killed, and one step's."""
KEEPING_SHARE = 20.0
"""So many times longer than keeping takes is worked in between."""


class Stopper(Protocol):
    """Whoever may ask a fit to stop (`runs.signals.Stop`)."""

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""

    def leave_if_asked(self) -> None:
        """Raise SystemExit if it was."""


@dataclass(kw_only=True)
class Fitting:
    """The surroundings of one fit.

    Args:
        folder: where unfinished work is kept; None: nowhere.
        tell: called with the pairs done, all pairs that will be gone through, and a note; None: nobody is told.
        stop: asked between two steps; None: nobody stops it.

    Attributes:
        kept: pairs that a continued fit does not go through again.
        borrowed_s: seconds that another fit of the run has spent on what this one uses as well: part of its cost.
    """

    folder: Path | None = None
    tell: Callable[[int, int, str], None] | None = None
    stop: Stopper | None = None
    kept: int = 0
    borrowed_s: float = 0.0

    def step(self, done: int, total: int, *, note: str = "") -> None:
        """Say how far the fit is, in pairs."""
        if self.tell is not None:
            self.tell(done, total, note)

    @property
    def stopping(self) -> bool:
        """Whether the fit is to keep its state and leave."""
        return self.stop is not None and self.stop.asked

    def leave_if_asked(self) -> None:
        """Leave here, with the state kept, if a stop was asked for.

        Raises:
            SystemExit: it was.
        """
        if self.stop is not None:
            self.stop.leave_if_asked()

    @contextmanager
    def room(self) -> Iterator[Path]:
        """The folder for unfinished work; one that vanishes where nothing is kept."""
        if self.folder is None:
            with tempfile.TemporaryDirectory() as scratch:
                yield Path(scratch)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        yield self.folder


class Clock:
    """Says when unfinished work is due to be kept again: not too late to lose much, not so often that it slows."""

    def __init__(self) -> None:
        self._kept_at, self._took_s = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether the last time is long enough ago; counts as kept now where it is."""
        if time.monotonic() - self._kept_at < max(KEEP_EVERY_S, KEEPING_SHARE * self._took_s):
            return False
        self._kept_at = time.monotonic()
        return True

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Around the keeping itself: what takes long is done less often."""
        started = time.monotonic()
        yield
        self._kept_at = time.monotonic()
        self._took_s = self._kept_at - started


_current: ContextVar[Fitting | None] = ContextVar("fitting", default=None)


def current() -> Fitting:
    """The surroundings of the fit that is going on."""
    return _current.get() or Fitting()


@contextmanager
def during(fitting: Fitting) -> Iterator[Fitting]:
    """Make these the surroundings of the fits inside."""
    token = _current.set(fitting)
    try:
        yield fitting
    finally:
        _current.reset(token)
