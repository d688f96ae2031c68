"""What is added where: the one thing the engine knows about interventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """Add `delta` to the output of one decoder block, at every position from `first_position` on (inclusive).

    Args:
        layer: 0-based index of the decoder block whose OUTPUT changes (after attention and MLP, before the final norm).
        delta: what is added, already multiplied by the dose. [D]
        first_position: `"instruction_end"`, each prompt's own `Prompt.first_position` (CAA, paper section 3), or
            `"start"`, every position of the prompt (cannot share a prefix).
    """

    layer: int
    delta: Tensor
    first_position: Literal["instruction_end", "start"] = "instruction_end"
