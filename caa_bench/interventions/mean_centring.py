"""Mean-centring (Jorgensen et al. 2023, arXiv 2312.03813, section 3): the target's mean less a background's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.interventions.pair_vectors import PairVector

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.activations import PairActivations


class MeanCentring(PairVector):
    """v = mean of the matching side - mean of a background: no pair needs its other side.

    Position rule: read at the answer letter, added to one block from the last token of the instruction on. The paper's
    background is a sample of the model's training texts; here it is both sides of other behaviors' pairs, so that the
    prompt's form and the letters are in both means and cancel. Without `background` it is both sides of the own pairs:
    then v is half of CAA's vector, and the same at CAA's length.
    """

    name = "mean_centring"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `mean_centring`.

        Args:
            background: behaviors whose pairs, both sides, are the background; the measured one is left out; empty:
                the own pairs.
        """

        background: tuple[str, ...] = ()

    def read_activations(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs
    ) -> PairActivations:
        """Those of the own pairs, and before them the background's, which `directions` takes."""
        from caa_bench.interventions.activations import read_activations

        self._background = [read_activations(model, tokenizer, pairs.of(name)) for name in self._others(pairs)]
        return super().read_activations(model, tokenizer, pairs)

    def directions(self, activations: PairActivations, pairs: Pairs, *, exchanged: set[str]) -> Tensor:
        """The difference of the means in every layer. [L, D]"""
        import torch

        behind = [_means(other) for other in self._background or [activations]]
        return super().directions(activations, pairs, exchanged=exchanged) - torch.stack(behind).mean(0)

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The mean of the matching side. [D]"""
        import numpy as np

        return np.asarray(matching.mean(axis=0))

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """The own pairs and the background's."""
        return {name: pairs.of(name).key for name in sorted({pairs.behavior, *self._others(pairs)})}

    def _others(self, pairs: Pairs) -> list[str]:
        return [name for name in self.config.background if name != pairs.behavior]


def _means(activations: PairActivations) -> Tensor:
    """The mean of both sides in every layer. [L, D]"""
    import numpy as np
    import torch

    sides = [
        np.stack([activations.layer(n, side).astype(np.float64).mean(axis=0) for n in range(activations.shape[2])])
        for side in (0, 1)
    ]
    return torch.from_numpy(((sides[0] + sides[1]) / 2).astype(np.float32))
