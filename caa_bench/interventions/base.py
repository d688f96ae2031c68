"""The one contract: what every way of moving a model's behavior can do. READ SECOND, after benchmark.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caa_bench.engine.edit import Edit
    from caa_bench.prompts import Message, Prompt


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One dose of an intervention.

    Args:
        multiplier: the dose; negative pushes away from the behavior, 0 is nothing.
        layer: the 0-based decoder block, where the intervention has one; else None.
    """

    multiplier: float = 1.0
    layer: int | None = None
