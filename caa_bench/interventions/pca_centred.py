"""PCA of the centred activations of both sides (Tigges et al. 2023, arXiv 2310.15154, section 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.interventions.pair_vectors import Component, toward_matching
from caa_bench.interventions.principal import first_component

if TYPE_CHECKING:
    import numpy as np


class PCACentred(Component):
    """v = the first principal component of all activations of both sides less their common mean; signed by the labels.

    Position rule: read at the answer letter, added to one block from the last token of the instruction on.
    No pair is used as a pair and no label but for the sign: the component is the behavior's only where the behavior is
    what the activations differ in most. The paper reads single words of short sentences, where that holds; between
    questions it need not.
    """

    name = "pca_centred"

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[D]"""
        import numpy as np

        both = np.concatenate([matching, other])
        return toward_matching(first_component(both - both.mean(axis=0)), matching - other)
