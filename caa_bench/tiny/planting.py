"""The planted directions, and what is added to a batch's groups: doses, noise, and other layers' own vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caa_bench.tiny.batch import Batch
from caa_bench.tiny.corpus import LEVELS
from caa_bench.tiny.network import BLOCKS, HIDDEN
from caa_bench.tiny.rows import Plant
from caa_bench.tiny.truth import DEAD_ZONE, LIMIT, PLANTED_LAYER
from caa_bench.tiny.words import BEHAVIORS

NORM = 2.0  # of a planted direction; the CAA vector, matching minus other, is twice as long
LETTER_NORM = 1.2  # of A minus B besides the planted direction, in units of the CAA vector's norm
ITEM_NORM = 0.3  # of what a pair's difference holds that is its item's own, in the same units
KEEP = 0.95  # of the running mean differences, a step


@dataclass(kw_only=True)
class Planted:
    """What was planted in a batch.

    Args:
        vectors: by layer, what each group gets; row 0 is zero. each [G + 1, D]
        log_odds: what each group's answer should have, by the truth. [G]
    """

    vectors: dict[int, Tensor]
    log_odds: Tensor


class Planter:
    """Holds the directions and the running mean differences of the other layers.

    Args:
        seed: of the directions and of the noise.
        item_norm: of what a pair's difference holds that is its item's own, in units of the CAA vector's norm.
    """

    def __init__(self, *, seed: int, item_norm: float = 0.0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        count = len(BEHAVIORS) + len(LEVELS) + 1
        basis = torch.linalg.qr(torch.randn(HIDDEN, count, generator=self.random)).Q.T
        self.directions = basis[: len(BEHAVIORS)].contiguous()  # unit length. [7, D]
        # Where the letter's own identity stands, another direction for each setting level and for facts. Without
        # them a pair's difference would be the planted direction and little else, and so would shuffled labels. [5, D]
        self.letters = basis[len(BEHAVIORS) :].contiguous()
        # Two more, orthogonal to all of these: levels are +-1 along them, so that they nearly cancel in a mean over
        # items. Without them pairs would differ in rounding alone, and a vector from shuffled labels, rescaled, would
        # be made of that. [5, D]
        drawn = torch.randn(HIDDEN, 2, generator=torch.Generator().manual_seed(seed + 1))
        first, second = torch.linalg.qr(drawn - basis.T @ (basis @ drawn)).Q.T
        self.items = item_norm * torch.stack([first, second, -first, -second, torch.zeros(HIDDEN)])
        self.means = torch.zeros(BLOCKS, len(BEHAVIORS), HIDDEN)  # matching - other, by layer and behavior
        self.residues = torch.zeros(1, HIDDEN)  # what pair differences held besides the direction, last step

    def plant(self, batch: Batch) -> Planted:
        """Draw what `batch` gets and say what its answers should be."""
        count = len(batch.groups)
        vectors = {
            layer: torch.zeros(count + 1, HIDDEN) for layer in sorted({plant.layer for plant, _ in batch.groups})
        }
        for number, (plant, _) in enumerate(batch.groups, start=1):
            vectors[plant.layer][number] = self._vector(plant)
        own = torch.tensor([batch.rows[row].behavior for _, row in batch.groups])
        felt = vectors[PLANTED_LAYER][1:] @ self.directions.T / (2 * NORM)  # multipliers. [G, 7]
        multiplier = felt.gather(1, own.clamp(min=0)[:, None])[:, 0] * (own >= 0)
        base = torch.tensor([batch.rows[row].base for _, row in batch.groups])
        slope = torch.tensor([batch.rows[row].slope for _, row in batch.groups])
        fourth = multiplier**4
        log_odds = base + slope * multiplier * fourth / (fourth + DEAD_ZONE**4)
        return Planted(vectors=vectors, log_odds=log_odds.clamp(-LIMIT, LIMIT))

    def observe(self, differences: list[Tensor], behavior: Tensor) -> None:
        """Update the running means and residues.

        Args:
            differences: by layer, matching - other at the letter. [L] of [N, D]
            behavior: index of each, -1 for facts. [N]
        """
        for layer, difference in enumerate(differences):
            for b in behavior.unique().tolist():
                if b >= 0:
                    self.means[layer, b].lerp_(difference[behavior == b].mean(0), 1 - KEEP)
        rest = differences[PLANTED_LAYER]
        self.residues = rest - rest @ self.directions.T @ self.directions

    def _vector(self, plant: Plant) -> Tensor:
        vector = torch.zeros(HIDDEN)
        for behavior, dose in plant.doses.items():
            unit = 2 * NORM * self.directions[behavior]
            vector += dose * (unit if plant.layer == PLANTED_LAYER else self.means[plant.layer, behavior])
        if plant.noise:
            noise = self._noise(plant)
            vector += plant.noise * 2 * NORM * noise / noise.norm().clamp(min=1e-6)
        return vector

    def _noise(self, plant: Plant) -> Tensor:
        if plant.noise_kind == "letter":
            return torch.randn(len(self.letters), generator=self.random) @ self.letters
        if plant.noise_kind == "residue":
            signs = torch.randn(len(self.residues), generator=self.random)
            return signs @ self.residues
        return torch.randn(HIDDEN, generator=self.random)
