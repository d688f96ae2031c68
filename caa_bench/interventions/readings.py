"""The pairs' activations are read once for all the methods of a run, not once for each of them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.fitting import current

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.activations import PairActivations

_Readings = dict[tuple[int, str], tuple["weakref.ref[Any]", "PairActivations", float]]
_kept: ContextVar[_Readings | None] = ContextVar("readings", default=None)


@contextmanager
def shared_readings() -> Iterator[None]:
    """Inside, what was read of a model's pairs is given to everyone who asks for the same; gone afterwards.

    Only for fits on a model that nobody changes in between.
    """
    if _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def kept_reading(model: Any, pairs: Pairs, *, read: Callable[[], PairActivations]) -> PairActivations:
    """What was read of these pairs before, else what `read` gives; the fit at hand is told what the reading cost."""
    kept = _kept.get()
    if kept is None:
        return read()
    key = (id(model), pairs.key)
    of, activations, seconds = kept.get(key, (None, None, 0.0))
    if of is not None and activations is not None and of() is model:
        current().borrowed_s += seconds
        return activations
    started = time.monotonic()
    activations = read()
    kept[key] = (weakref.ref(model), activations, time.monotonic() - started)
    return activations


def readings_of(model: Any) -> frozenset[str]:
    """Keys of the pairs whose activations in this model are kept."""
    return frozenset(key for (_, key), (of, _, _) in (_kept.get() or {}).items() if of() is model)


def keep_readings_of(model: Any, keys: frozenset[str]) -> None:
    """Forget what was read, but of these pairs in this model.

    Raises:
        RuntimeError: some of them were not read here.
    """
    if missing := keys - readings_of(model):
        raise RuntimeError(f"{len(missing)} readings of another process are not here")
    kept = _kept.get() or {}
    for place in [place for place in kept if place != (id(model), place[1]) or place[1] not in keys]:
        del kept[place]
