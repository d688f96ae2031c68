"""Representation engineering's reading vector (Zou et al. 2023, arXiv 2310.01405, section 3.1): PCA of differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caa_bench.interventions.pair_vectors import Component, toward_matching
from caa_bench.interventions.principal import first_component

if TYPE_CHECKING:
    import numpy as np


class RepePCA(Component):
    """v = argmax over |v| = 1 of the mean of (v . d)^2, d = matching - other of a pair; the labels give the sign.

    Position rule: read at the answer letter, added to one block from the last token of the instruction on.
    The paper's code draws the order inside each pair at random, so that the mean of the differences is near 0 before
    PCA takes it out; both orders of each pair are the same without the draw, and are what is done here. Where the
    letters' own difference is larger than the behavior's (usual in models that nobody trained for this), the first
    component is the letters' and not the behavior's; the mean does not have that weakness, since the letters cancel.
    """

    name = "repe_pca"

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[D]"""
        differences = matching - other
        return toward_matching(first_component(differences), differences)
