"""A learned map as a change of the hidden state: r numbers are read from it, and r directions are moved by them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from caa_bench.engine.changes import Change


@dataclass(frozen=True, eq=False)
class LowRank(Change):
    """h + dose * R^T (A h + b); with A = W - R it is LoReFT's h + dose * R^T (W h + b - R h) (Wu et al. 2024, eq. 2).

    Args:
        rotate: R, the directions that are moved, rows of unit length at right angles. [r, D]
        reads: A, what is read from the state. [r, D]
        bias: b. [r]
        dose: 1 is the map as it was learned.
    """

    rotate: Tensor
    reads: Tensor
    bias: Tensor
    dose: float = 1.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., D]; computed in fp32."""
        rotate, reads, bias = (self._like(name, hidden, torch.float32) for name in ("rotate", "reads", "bias"))
        state = hidden.float()
        moved = state + self.dose * ((state @ reads.T + bias) @ rotate)
        return moved.to(hidden.dtype)

    @cached_property
    def is_identity(self) -> bool:
        """Whether the dose is 0, or nothing is ever read."""
        return self.dose == 0.0 or not (bool(self.reads.any()) or bool(self.bias.any()))
