"""Who is told what happens in a run, in the manner of Trainer's callbacks. A callback can never fail a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)


class Callback:
    """Override what you want to hear of; every event gets keywords only."""

    def on_fit_begin(self, **event: Any) -> None:
        """`intervention`, `pairs` (their number)."""

    def on_fit_end(self, **event: Any) -> None:
        """`intervention`, `artifact`."""

    def on_compare_begin(self, **event: Any) -> None:
        """`plan`, `waiting` (batches not done yet), `folder`."""

    def on_batch_end(self, **event: Any) -> None:
        """`batch`, `rows`."""

    def on_batch_error(self, **event: Any) -> None:
        """`batch`, `error`."""

    def on_compare_end(self, **event: Any) -> None:
        """`folder`, `failed` (batches)."""

    def on_report(self, **event: Any) -> None:
        """`report`."""


class Callbacks(Callback):
    """Tells each callback in turn; one that raises is reported once and left out from then on.

    Args:
        callbacks: in order.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = list(callbacks)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return self._tell(name)

    def _tell(self, name: str) -> Callable[..., None]:
        def tell(**event: Any) -> None:
            for callback in list(self.callbacks):
                try:
                    getattr(callback, name)(**event)
                except Exception as error:
                    logger.warning("%s failed in %s (%s); the results go on without it", callback, name, error)
                    self.callbacks.remove(callback)

        return tell
