"""Ctrl-C and SIGTERM finish what is being computed, a batch or a fit; a second one stops at once. Nothing is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Remembers that the user wants to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first one waits for what is being computed, the second one does not.

        Raises:
            SystemExit: at the second signal.
        """
        if self.signal is None:
            self.signal = number
            sys.stderr.write("\nstopping after this batch or fit; again to stop at once\n")
        else:
            self._leave(number)

    def leave_if_asked(self) -> None:
        """Leave here, with everything written, if a stop was asked for.

        Raises:
            SystemExit: 130 after Ctrl-C, 143 after SIGTERM.
        """
        if self.signal is not None:
            self._leave(self.signal)

    def _leave(self, number: int) -> None:
        sys.stderr.write("stopped; nothing is lost: run the same command again to continue\n")
        raise SystemExit(128 + number)


@contextmanager
def finish_what_runs() -> Iterator[Stop]:
    """Catch both signals for the time of the block; handlers are restored after it."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
