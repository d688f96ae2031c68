"""What is known of a model's decoder blocks before it is loaded: how many, how wide, which to steer by default."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_DEPTH = 0.4
"""Fraction of the depth that is steered where nobody has said better: 13 of 32 and 14 of 40 in the paper."""
DEFAULT_RANGE = (0.25, 0.6)
"""First and last fraction of the depth that `caa.layers: range` sweeps: in the paper's sweeps every layer with at least
half of the best one's effect lies between .33 and .53 (7B, seven behaviors) and between .33 and .38 (13B)."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What an intervention may know of a model before it is loaded.

    Args:
        count: number of decoder blocks.
        default: the block to steer where the recipe names none.
        hidden: width of the residual stream.
        range: first and last block that `layers: range` sweeps; None: all.
    """

    count: int
    default: int
    hidden: int
    range: tuple[int, int] | None = None
