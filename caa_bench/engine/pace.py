"""How long scoring takes, told while it goes on, so that a run can say how long it still needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from caa_bench.models.blocks import input_device


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Some prompts of one call of `score` are done, under all of its conditions.

    Args:
        share: of the call's prompts. (0-1)
        conditions: how many each was scored under.
        read_s: seconds for reading what the conditions share of the prompts; 0 where they share nothing.
        conditions_s: seconds for the conditions on top.
    """

    share: float
    conditions: int
    read_s: float
    conditions_s: float


_listener: list[Callable[[Scored], None]] = []  # one at most


def listen(listener: Callable[[Scored], None]) -> Callable[[], None]:
    """Have it told of all that is scored in this process from now on, in place of who listened before.

    Returns:
        What ends that.
    """
    _listener[:] = [listener]

    def end() -> None:
        if _listener == [listener]:
            _listener.clear()

    return end


def tell(scored: Scored) -> None:
    """Tell who listens."""
    for listener in _listener:
        listener(scored)


def settle(model: nn.Module) -> None:
    """Wait for what an accelerator still computes, where somebody listens: its seconds belong to what asked for it."""
    device = input_device(model)
    if _listener and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif _listener and device.type == "mps":
        torch.mps.synchronize()
