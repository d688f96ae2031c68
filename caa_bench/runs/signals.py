"""Ctrl-C and SIGTERM finish what is being computed, a batch or a fit's step; a second one stops at once.

So do SIGUSR1 and SIGUSR2, by which a queue says that it is about to take the machine; a SIGTERM behind one of them is
still the first. What is finished is kept either way, and a fit goes on from the state that it kept.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caa_bench.interventions.fitting import Fitting


_NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
RELAYED_S = 2.0
"""Within so much time torchrun hands a Ctrl-C on that its processes have had from the terminal already."""


class Stop:
    """Remembers that the user wants to stop.

    Attributes:
        signal: the number of the first signal; None: nobody asked.
        fit: the fit that is going on, by its key, and its surroundings; None between fits.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked_at = 0.0
        self.fit: tuple[str, Fitting] | None = None

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self.signal is not None

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first one waits for what is being computed, the second one does not.

        Raises:
            SystemExit: at the second signal.
        """
        just_now = self.signal is not None and time.monotonic() - self._asked_at < RELAYED_S
        if just_now and "TORCHELASTIC_RUN_ID" in os.environ:
            return
        if self.signal is None or self.signal in _NOTICES:
            self.signal, self._asked_at = number, time.monotonic()
            sys.stderr.write("\nstopping after this batch or step of the fit; again to stop at once\n")
        else:
            sys.stderr.write(f"stopped at once; finished work is kept; {self._lost()}\n")
            raise SystemExit(128 + number)

    def leave_if_asked(self) -> None:
        """Leave here, with everything written, if a stop was asked for.

        Raises:
            SystemExit: 130 after Ctrl-C, 143 after SIGTERM.
        """
        if self.signal is not None:
            sys.stderr.write("stopped; nothing is lost: run the same command again to continue\n")
            raise SystemExit(128 + self.signal)

    def _lost(self) -> str:
        """What the next run of the same command has to do again."""
        if self.fit is None:
            return "the batch at hand is computed again"
        key, fitting = self.fit
        return f"the fit of {key} starts again from pair {fitting.kept + 1}"


@contextmanager
def finish_what_runs() -> Iterator[Stop]:
    """Catch the signals for the time of the block; handlers are restored after it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM, *_NOTICES)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
