"""In-context vectors (Liu et al. 2023, arXiv 2311.06668, section 3): one component of all layers, the norm kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from caa_bench.interventions.base import Condition
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.interventions.activations import PairActivations


class ICV(SteeringVector):
    """|h| (h + multiplier * v_l) / |h + multiplier * v_l| in every block l at every position.

    v = (v_1 ... v_L) is the first principal component of the items' differences with all layers side by side, toward
    the matching side. An item's difference is the mean over its option orders: in a single pair the two letters differ
    more than the two answers do, and the component would be the letters'. Position rule: read at the answer letter,
    which is the last token, applied at every position, so that each condition is a full forward of its own. Its own
    length is the mean difference's along it; with `norm: caa` each layer has CAA's length divided by the number of
    layers, so that all layers together get the dose that CAA gives one. The paper's code adds the mean difference to
    the component (of length 1), acts on each MLP's output, on h of length 1 with a dose of .1, and doubles it where h
    points away from v; here it is the paper's equation, on the block's output.
    """

    name = "icv"
    grid = ("multipliers",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `icv`.

        Args:
            multipliers: doses; 0 is always measured, once a base.
            norm: `caa`, all layers together are dosed as CAA's one; `own`, as the method gives it.
        """

        multipliers: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
        norm: Literal["caa", "own"] = "caa"

        def __post_init__(self) -> None:
            if not any(self.multipliers):
                raise ValueError("multipliers: no dose but 0; give one")

    def conditions(self, layers: Layers) -> list[Condition]:
        """One a dose, all layers at once."""
        return [Condition(multiplier=dose) for dose in self.config.multipliers if dose]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """The component, a row a layer. [L, D]"""
        from caa_bench.interventions.activations import read_activations
        from caa_bench.interventions.pair_vectors import as_long_as, sizes

        activations = read_activations(model, tokenizer, pairs)
        found = _component(activations, pairs)
        if self.config.norm == "caa":
            found = as_long_as(found, activations.mean_difference() / len(found))
        self.vectors = found
        self.diagnostics = sizes(activations, pairs, vectors=found)

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """A component has no label but its sign: the mean difference of the exchanged pairs stands in for it. [L, D]"""
        from caa_bench.interventions.activations import read_activations, stand_in

        return stand_in(self.fitted(), read_activations(model, tokenizer, pairs), pairs, exchanged=exchanged)

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One addition a block, each with the norm kept."""
        from caa_bench.engine.changes import AddKeepingNorm
        from caa_bench.engine.edit import Edit

        return [
            Edit(layer, AddKeepingNorm(condition.multiplier * vector), positions="all")
            for layer, vector in enumerate(self.fitted())
        ]

    @property
    def acts(self) -> str:
        """Every block, every position."""
        return (
            "Added to the output of EVERY decoder block, times the multiplier, at every position of the prompt and of "
            "the answer; each state keeps its norm"
        )


def _component(activations: PairActivations, pairs: Pairs) -> Tensor:
    """The first component of the items' differences, all layers side by side, times its mean projection. [L, D]"""
    import numpy as np
    import torch

    shares, layers = _shares(pairs), activations.shape[2]
    # through the matrix of the items' products, so that no more than one layer has to be held
    gram = np.zeros((len(shares), len(shares)))
    for layer in range(layers):
        rows = shares @ _differences(activations, layer)
        gram += rows @ rows.T
    size, along = (found[..., -1] for found in np.linalg.eigh(gram))
    pieces = [along @ shares @ _differences(activations, layer) / np.sqrt(size) for layer in range(layers)]
    # each item's projection on the component is sqrt(size) * along: its mean is the vector's length and sign
    mean = float(np.sqrt(size) * along.mean())
    return torch.from_numpy((mean * np.stack(pieces)).astype(np.float32))


def _shares(pairs: Pairs) -> np.ndarray:
    """What each pair adds to its item's mean. [items, P]"""
    import numpy as np

    items = list(dict.fromkeys(pair.item for pair in pairs))
    of_item = np.array([[pair.item == item for pair in pairs] for item in items], dtype=np.float64)
    return np.asarray(of_item / of_item.sum(axis=1, keepdims=True))


def _differences(activations: PairActivations, layer: int) -> np.ndarray:
    import numpy as np

    return np.asarray(activations.layer(layer, 0).astype(np.float64) - activations.layer(layer, 1))
