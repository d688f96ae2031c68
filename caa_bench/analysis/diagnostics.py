"""What the pairs' activations say about a vector before it is used: agreement and separability, layer by layer.

Both predict how reliably a vector steers (Braun et al. 2025, "Understanding (un)reliability of steering vectors").
Shapes: N pairs, L layers, D hidden size.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

COLUMNS = ["layer", "n", "norm", "signal_share", "agreement", "agreeing_share", "separability"]


def vector_diagnostics(matching: np.ndarray, other: np.ndarray) -> pd.DataFrame:
    """How well the contrast pairs agree on one direction, each pair judged by the vector of the OTHER pairs.

    Left in, a pair agrees with itself: with few pairs in a wide model that alone looks like a direction.

    Args:
        matching, other: activations at the answer letter of the two sides of each pair. both [N, L, D]

    Returns:
        One line a layer. `norm`: |mean difference|. `signal_share`: its share of the mean squared difference (0-1).
        `agreement`: mean cosine of a pair's difference with the vector. `agreeing_share`: share of pairs with a
        positive one. `separability`: d' of the two sides' projections on the vector (difference of their means over
        their pooled sd). NaN with fewer than three pairs, and where nothing differs.

    Raises:
        ValueError: shapes that differ.
    """
    if matching.shape != other.shape or matching.ndim != 3:
        raise ValueError(f"matching {matching.shape} and other {other.shape} must both be [N, L, D]")
    sides = [np.asarray(side, dtype=np.float64) for side in (matching, other)]
    lines = [_layer(sides[0][:, layer], sides[1][:, layer]) for layer in range(matching.shape[1])]
    return pd.DataFrame([{"layer": layer, **line} for layer, line in enumerate(lines)], columns=COLUMNS)


def _layer(matching: np.ndarray, other: np.ndarray) -> dict[str, float]:
    pairs = matching - other
    n, mean = len(pairs), pairs.mean(axis=0) if len(pairs) else np.zeros(pairs.shape[1])
    size = float((pairs**2).sum(axis=1).mean()) if n else np.nan
    line = {"n": n, "norm": float(np.linalg.norm(mean)) if n else np.nan}
    if n < 3 or not size > 0:
        return line
    rest = (pairs.sum(axis=0) - pairs) / (n - 1)
    unit = _unit(rest)
    cosine = (_unit(pairs) * unit).sum(axis=1)
    up, down = (matching * unit).sum(axis=1), (other * unit).sum(axis=1)
    spread, gap = np.sqrt((up.var(ddof=1) + down.var(ddof=1)) / 2), up.mean() - down.mean()
    return {
        **line,
        "signal_share": float((mean**2).sum() / size),
        "agreement": float(cosine.mean()),
        "agreeing_share": float((cosine > 0).mean()),
        "separability": float(gap / spread) if spread > 1e-9 * abs(gap) else np.nan,
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays zero. [N, D]"""
    size = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 0)
