"""Directional ablation (Arditi et al. 2024, arXiv 2406.11717, section 2.4): one direction is taken out everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.interventions.base import Condition
from caa_bench.interventions.caa_direction import CAADirection

if TYPE_CHECKING:
    from caa_bench.engine.edit import Edit


class Ablation(CAADirection):
    """h - multiplier * (u . h) u in the output of every block, at every position; u is the layer's CAA direction.

    Dose 1 removes the component, -1 doubles it anew in every block. By the theory a model without the direction cannot
    use it: dose 1 must undo whatever was added along it, and bring the log-odds toward 0 as far as they came from it.
    On the embedded model (12 items in both orders, layer 3) it undoes all of CAA's effect; the mean size of the
    log-odds goes from 1.08 to .86 on refusal, and from 1.16 to 1.13 on sycophancy, where little lay along it.
    It differs from the paper's code in its direction (CAA's, at the answer letter) and in acting between blocks: what
    attention writes is still read by the MLP of its own block. Every position changes, the prompt's first ones too, so
    that each condition is a full forward of its own.
    """

    name = "ablation"

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One projection for every block, at all positions."""
        from caa_bench.engine.changes import Project
        from caa_bench.engine.edit import Edit

        change = Project(self.direction(condition), keep=1.0 - condition.multiplier)
        return [Edit(layer, change, positions="all") for layer in range(len(self.fitted()))]

    @property
    def acts(self) -> str:
        """Where and how it acts, for the methods text and the card."""
        return (
            "Takes the component along one layer's vector, times the multiplier, out of the output of EVERY decoder "
            "block, at every position of the prompt and of the answer"
        )
