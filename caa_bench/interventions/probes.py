"""A linear probe: L2-regularized logistic regression by Newton's method, with scikit-learn's objective.

Shapes: N rows, D features, R their rank at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

STEPS = 100
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Probe:
    """sigmoid(weights . x + bias) is the probability of the first class.

    Args:
        weights: [D]
        bias: not regularized.
    """

    weights: np.ndarray
    bias: float

    def right(self, rows: np.ndarray, first: np.ndarray) -> float:
        """The share of rows that it puts into their own class (0-1).

        Args:
            rows: [N, D]
            first: whether each is of the first class. [N] bool
        """
        return float(((rows @ self.weights + self.bias > 0) == first).mean())


def fit_probe(rows: np.ndarray, first: np.ndarray, *, inverse_penalty: float = 1.0) -> Probe:
    """The minimum of |w|^2 / 2 + inverse_penalty * sum of log(1 + exp(-y (w . x + b))), y = 1 or -1.

    The minimum lies in the span of the centered rows, so that Newton's method runs in their R coordinates: exact with
    any number of features.

    Args:
        rows: features in double. [N, D]
        first: whether each row is of the first class. [N] bool
        inverse_penalty: scikit-learn's C; larger fits the rows more closely.

    Raises:
        ValueError: all rows are of one class.
    """
    import numpy as np

    if first.all() or not first.any():
        raise ValueError(f"a probe needs rows of both classes; all {len(first)} are of one")
    center = rows.mean(axis=0)
    # reduced: rows - center = reduced @ basis.T, and the penalty is the same in both
    left, stretch, basis = np.linalg.svd(rows - center, full_matrices=False)
    reduced = np.column_stack([left * stretch, np.ones(len(rows))])
    penalty = np.append(np.ones(len(stretch)), 0.0)
    found = _newton(reduced, np.where(first, 1.0, -1.0), penalty=penalty, weight=inverse_penalty)
    weights = found[:-1] @ basis
    return Probe(weights=weights, bias=float(found[-1] - weights @ center))


def _newton(rows: np.ndarray, signs: np.ndarray, *, penalty: np.ndarray, weight: float) -> np.ndarray:
    """Newton's method with step halving, from 0. [R + 1]"""
    import numpy as np
    from scipy.special import expit

    def loss(at: np.ndarray) -> float:
        return float(weight * np.logaddexp(0, -signs * (rows @ at)).sum() + 0.5 * (penalty * at) @ at)

    found, now = np.zeros(rows.shape[1]), np.inf
    now = loss(found)
    for _ in range(STEPS):
        p = expit(-signs * (rows @ found))
        gradient = penalty * found - weight * rows.T @ (signs * p)
        curvature = np.diag(penalty) + weight * (rows.T * (p * (1 - p))) @ rows
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        share = 1.0
        while loss(found - share * step) > now and share > TOLERANCE:
            share /= 2
        found = found - share * step
        before, now = now, loss(found)
        if before - now <= TOLERANCE * max(1.0, abs(now)):
            break
    return found
