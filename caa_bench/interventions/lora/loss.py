"""The loss computes the logits of the answer's tokens alone, on a CPU as on a GPU.

trl leaves the masked positions out where Triton runs. Elsewhere it takes every position through the output head,
forward and backward, and masks the loss afterwards: of a prompt of 150 tokens one is learned, and with a vocabulary of
150,000 the head of a 0.5B model is then a third of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DYNAMIC = ("cpu", "mps")
"""Devices that compile nothing for each number of positions."""


@contextmanager
def answer_positions_alone() -> Iterator[None]:
    """For the time of a fit; a trl that decides otherwise is left as it is, and is only slower."""
    from trl.trainer import utils

    own: Any = getattr(utils, "_use_triton", None)
    if own is None:
        yield
        return
    utils._use_triton = lambda device: device.type in DYNAMIC or own(device)
    try:
        yield
    finally:
        utils._use_triton = own
