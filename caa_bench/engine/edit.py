"""What is changed where: the one thing the engine knows about interventions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from caa_bench.engine.changes import Add, Change

if TYPE_CHECKING:
    from torch import Tensor

Site = Literal["block", "attention", "mlp", "heads"]
SITES = ("block", "attention", "mlp", "heads")
POSITIONS = ("instruction_end", "answer", "prompt", "all", "first:k")


@dataclass(frozen=True, eq=False)
class Edit:
    """Replace the hidden state h by `change(h)` at one place of one decoder block, at some positions.

    Args:
        layer: 0-based index of the decoder block.
        change: a function of the state at one position (`caa_bench.engine.changes`).
        site: where in the block. `block`: its output, after attention and MLP (CAA). `attention` and `mlp`: the output
            of that module, before whatever norm the family puts behind it and before it is added to the residual
            stream. `heads`: the heads side by side, in front of the attention's output projection. [H * E]
        positions: which ones, counted in the unpadded row; f is the prompt's `first_position`, the last token of the
            instruction. `instruction_end`: f and everything after it (CAA, paper section 3); `answer`: everything after
            f; `prompt`: everything up to f and f itself; `all`; `first:k`: the first k of the row.

    Raises:
        ValueError: an unknown site or positions.
    """

    layer: int
    change: Change
    site: Site = field(default="block", kw_only=True)
    positions: str = field(default="instruction_end", kw_only=True)

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"site ({self.site!r}) must be one of {', '.join(SITES)}")
        if self.positions not in POSITIONS[:-1] and not re.fullmatch(r"first:[1-9]\d*", self.positions):
            raise ValueError(f"positions ({self.positions!r}) must be one of {', '.join(POSITIONS)} (k at least 1)")

    @property
    def keeps_prefix(self) -> bool:
        """True if nothing before the end of the instruction changes, so that a computed prefix stays exact."""
        return self.positions in ("instruction_end", "answer")

    @property
    def follows(self) -> int:
        """The last block that is still the unchanged model's own, -1 where there is none: a row may join behind it."""
        return self.layer if self.site == "block" else self.layer - 1

    @property
    def is_plain(self) -> bool:
        """True for an addition at every position from the instruction's end on, which rows can sum up."""
        return isinstance(self.change, Add) and self.positions == "instruction_end"


def by_place(edits: Sequence[Edit]) -> dict[tuple[int, Site], list[Edit]]:
    """Edits of each layer and site, in order; additions that follow one another are summed, in fp32."""
    places: dict[tuple[int, Site], list[Edit]] = {}
    for edit in edits:
        here = places.setdefault((edit.layer, edit.site), [])
        last = here[-1] if here else None
        if (
            last is not None
            and isinstance(last.change, Add)
            and isinstance(edit.change, Add)
            and last.positions == edit.positions
        ):
            here[-1] = replace(last, change=Add(_sum(last.change.delta, edit.change.delta)))
        else:
            here.append(edit)
    return places


def _sum(one: Tensor, other: Tensor) -> Tensor:
    return one.float() + other.float().to(one.device)
