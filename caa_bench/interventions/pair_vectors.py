"""What the vectors that are computed from the pairs' activations share: one reading, one grid, one dose.

Every method reads what CAA reads, both answers of each pair at the letter, and says in `direction_of` alone how a
direction comes from it. Methods disagree about length (a principal component has length 1, a probe's weights have any),
so each layer's direction is by default as long as CAA's vector of the same pairs there: one multiplier is then one dose
for all of them.

Shapes: P pairs, L layers, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from caa_bench.interventions.activations import exchanged_mean, stand_in
from caa_bench.interventions.base import Condition
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.vectors import SteeringVector, grid_mistakes
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.activations import PairActivations

UNKNOWN = (
    "signal_share", "agreement", "agreement_low", "agreement_high", "agreeing_share", "agreeing_share_low",
    "agreeing_share_high", "separability", "separability_low", "separability_high",
)  # fmt: skip
"""What `analysis.diagnostics` says of a mean difference alone."""


class PairVector(SteeringVector):
    """A direction a layer from both sides of the pairs at the answer letter; a subclass says which.

    Added to one block's output from the last token of the instruction on, as CAA's.
    """

    grid: ClassVar[tuple[str, ...]] = ("layers", "multipliers")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The keys of every such section.

        Args:
            layers: blocks to steer, each alone: a list, `default`, `range` or `all`, as for `caa`.
            multipliers: doses; 0 is always measured, once a base.
            norm: `caa`, each layer's vector is as long as CAA's of the same pairs; `own`, as the method gives it.
        """

        layers: Literal["default", "range", "all"] | tuple[int, ...] = "default"
        multipliers: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
        norm: Literal["caa", "own"] = "caa"

        def __post_init__(self) -> None:
            if self.layers == ():
                raise ValueError("layers: an empty list; name a layer")
            if not any(self.multipliers):
                raise ValueError("multipliers: no dose but 0; give one")

    def check(self, layers: Layers) -> list[str]:
        """Layers that the model does not have."""
        named = () if isinstance(self.config.layers, str) else self.config.layers
        return grid_mistakes(f"{self.name}.layers", named, layers)

    def conditions(self, layers: Layers) -> list[Condition]:
        """Every layer x multiplier, as for `caa`."""
        return CAA(layers=self.config.layers, multipliers=self.config.multipliers).conditions(layers)

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """One layer's direction, toward the matching side, in the method's own length.

        Args:
            matching / other: both sides' activations in double. [P, D]

        Returns:
            [D]
        """
        raise NotImplementedError

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """One direction a layer.

        Raises:
            ValueError: nothing differs between the two sides.
        """
        import torch

        activations = self.read_activations(model, tokenizer, pairs)
        found = self.directions(activations, pairs, exchanged=set())
        if self.config.norm == "caa":
            found = as_long_as(found, activations.mean_difference())
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{self.label}: the two sides of the pairs do not differ, so there is no direction")
        self.vectors = found
        self.diagnostics = sizes(activations, pairs, vectors=found)

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """What the method gives where the two sides change places in some items. [L, D]"""
        activations = self.read_activations(model, tokenizer, pairs)
        found = self.directions(activations, pairs, exchanged=exchanged)
        if self.config.norm == "own":
            return found
        return as_long_as(found, exchanged_mean(activations, self.own_pairs(pairs), exchanged=exchanged))

    def read_activations(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs
    ) -> PairActivations:
        """Both sides of the pairs; inside one run every method is given the same reading. [P, 2, L, D]"""
        from caa_bench.interventions.activations import read_activations

        return read_activations(model, tokenizer, self.own_pairs(pairs))

    def directions(self, activations: PairActivations, pairs: Pairs, *, exchanged: set[str]) -> Tensor:
        """`direction_of` in every layer. [L, D]

        Args:
            exchanged: ids of the items whose two sides change places.
        """
        import numpy as np
        import torch

        turned = np.array([pair.item in exchanged for pair in self.own_pairs(pairs)])[:, None]
        found = []
        for layer in range(activations.shape[2]):
            one, two = (activations.layer(layer, side).astype(np.float64) for side in (0, 1))
            found.append(self.direction_of(np.where(turned, two, one), np.where(turned, one, two)))
        return torch.from_numpy(np.stack(found).astype(np.float32))


class Component(PairVector):
    """A direction that has no label but its sign: exchanging the two sides of a pair leaves it where it is."""

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """There is no such direction of other labels: the mean difference stands in for it. [L, D]"""
        activations = self.read_activations(model, tokenizer, pairs)
        return stand_in(self.fitted(), activations, self.own_pairs(pairs), exchanged=exchanged)


def as_long_as(directions: Tensor, lengths: Tensor) -> Tensor:
    """Each layer's direction at the length of the same layer of `lengths`. [L, D]"""
    return directions / directions.norm(dim=-1, keepdim=True) * lengths.norm(dim=-1, keepdim=True)


def sizes(activations: PairActivations, pairs: Pairs, *, vectors: Tensor) -> list[dict[str, float | int | None]]:
    """A line a layer: the vector's length and the median length of an activation, which says how large a dose is.

    How far the pairs agree is known of a mean difference alone, and missing here.
    """
    import numpy as np

    items = len({pair.item for pair in pairs})
    lines: list[dict[str, float | int | None]] = []
    for layer, vector in enumerate(vectors):
        lengths = [np.linalg.norm(activations.layer(layer, side).astype(np.float64), axis=1) for side in (0, 1)]
        lines.append(
            {
                "layer": layer,
                "n": len(pairs),
                "n_clusters": items,
                "norm": float(f"{float(vector.double().norm()):.6g}"),
                "residual_norm": float(f"{float(np.median(np.concatenate(lengths))):.6g}"),
                **dict.fromkeys(UNKNOWN),
            }
        )
    return lines


def toward_matching(direction: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """The direction with the sign that the labels give it: most of matching - other points along it. [D]"""
    return direction if float((differences @ direction).mean()) >= 0 else -direction
