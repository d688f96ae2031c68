"""The direction of a linear probe between the two sides, as the steering-vectors package offers it ("logistic")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.interventions.pair_vectors import PairVector

if TYPE_CHECKING:
    import numpy as np


class Logistic(PairVector):
    """v = argmin of |v|^2 / 2 + C * sum of log(1 + exp(-y (v . h + b))): the weights of a logistic regression.

    y is 1 for the matching side's activation h and -1 for the other's. Position rule: read at the answer letter, added
    to one block from the last token of the instruction on. A probe finds what tells the sides APART best, which need
    not be what moves the model most: it gives up what the spread inside the sides hides (Marks & Tegmark 2023, arXiv
    2310.06824, section 5, prefer the mean for that). Objective and default C are those of scikit-learn; the
    steering-vectors package calls it without the intercept b, which gives another direction.
    """

    name = "logistic"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `logistic`.

        Args:
            inverse_penalty: C; larger follows the pairs more closely.
        """

        inverse_penalty: float = 1.0

        def __post_init__(self) -> None:
            PairVector.Config.__post_init__(self)
            if self.inverse_penalty <= 0:
                raise ValueError(f"inverse_penalty: {self.inverse_penalty:g} is too small; give more than 0")

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[D]"""
        import numpy as np

        from caa_bench.interventions.probes import fit_probe

        first = np.arange(2 * len(matching)) < len(matching)
        rows = np.concatenate([matching, other])
        return fit_probe(rows, first, inverse_penalty=self.config.inverse_penalty).weights
