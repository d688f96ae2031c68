"""Which way an arm is meant to push, and how many tries each arm had at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.report import words
from caa_bench.report.headline import Headline, measured

if TYPE_CHECKING:
    import pandas as pd

    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Arm:
    """CAA in one direction, or a base alone.

    Args:
        name: `CAA up`, `lora_sft_positive`.
        base: its label; "" for the vector.
        direction: +1 towards matching, -1 away from it.
        lines: of the answer probability's shifts, one a dose (the vector: a layer and multiplier).
    """

    name: str
    base: str
    direction: int
    lines: pd.DataFrame

    @property
    def tries(self) -> int:
        """The doses that were looked at."""
        return len(self.lines.drop_duplicates(["base_dose", "vector_layer", "layer", "multiplier"]))


def arms_alone(report: Report, chosen: Headline) -> Iterator[Arm]:
    """The vector up and down on the unchanged model, then each base that pushes somewhere, at all of its doses."""
    shifts = measured(report.shifts)
    steered = shifts[(shifts["base"] == "none") & (shifts["vector"] == chosen.vector) & (shifts["multiplier"] != 0)]
    for sign, word in ((1, "up"), (-1, "down")):
        own = steered[steered["multiplier"] * sign > 0]
        if len(own):
            yield Arm(name=f"{words.vector_name(chosen.vector)} {word}", base="", direction=sign, lines=own)
    alone = shifts[shifts["multiplier"] == 0]
    for base in dict.fromkeys(base for base, _ in chosen.bases):
        own = alone[alone["base"] == base].sort_values("base_dose", kind="stable")
        if base != "none" and not base.endswith("_neutral") and len(own):
            yield Arm(name=base, base=base, direction=_direction(base, own), lines=own)


def _direction(base: str, own: pd.DataFrame) -> int:
    """By its name; a base of the user's own by what it does at its largest dose."""
    for ending, sign in (("_positive", 1), ("_negative", -1)):
        if base.endswith(ending):
            return sign
    return -1 if own["total"].iloc[-1] < 0 else 1
