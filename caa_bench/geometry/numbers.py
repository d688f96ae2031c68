"""Angles, lengths and principal components of vectors and letter activations. Knows nothing of models.

Shapes: V vectors, L layers, N pairs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.sparse.linalg import svds

SIDES = ("matching", "other")


def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Cosine of the last axis, NaN where a vector is zero; the other axes broadcast. [..., D] -> [...]"""
    size = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    dot = (one * two).sum(axis=-1)
    return np.divide(dot, size, out=np.full(np.shape(dot), np.nan), where=size > 0)


def vector_table(vectors: Mapping[str, np.ndarray], *, reference: str) -> pd.DataFrame:
    """Norm of each vector in each layer, and its cosine with the reference vector of the same layer.

    Args:
        vectors: label -> [L, D].
        reference: the label the others are compared with.
    """
    parts = [
        pd.DataFrame(
            {
                "vector": label,
                "layer": np.arange(len(rows)),
                "norm": np.linalg.norm(rows, axis=1),
                f"cosine_with_{reference}": cosine(rows, vectors[reference]),
            }
        )
        for label, rows in vectors.items()
    ]
    return pd.concat(parts, ignore_index=True)


def layer_table(vectors: np.ndarray) -> pd.DataFrame:
    """Cosine of every layer's vector with every other layer's. [L, D] -> one line a pair of layers"""
    layers = np.arange(len(vectors))
    table = cosine(vectors[:, None], vectors[None])
    return pd.DataFrame(
        {"layer": layers.repeat(len(layers)), "other_layer": np.tile(layers, len(layers)), "cosine": table.reshape(-1)}
    )


def between_table(vectors: Mapping[str, np.ndarray], *, what: str) -> pd.DataFrame:
    """Cosine of every two of the named vectors in each layer; columns `<what>`, `other_<what>`, `layer`, `cosine`."""
    parts = [
        pd.DataFrame(
            {what: one, f"other_{what}": two, "layer": np.arange(len(rows)), "cosine": cosine(rows, vectors[two])}
        )
        for one, rows in vectors.items()
        for two in vectors
        if one != two
    ]
    return pd.concat(parts, ignore_index=True)


def component_table(
    activations: np.ndarray, *, pairs: Sequence[str], letters: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Each letter activation on its layer's first two principal components, both sides of all pairs together.

    Args:
        activations: matching and other side of each pair. [N, 2, L, D]
        pairs: their ids. [N]
        letters: the letter of each side. [N]

    Returns:
        Columns `layer, pair, side, letter, pc1, pc2` and the share of variance of each (`pc1_share`, `pc2_share`).
        Components point to where the matching side lies. NaN with fewer than two pairs.
    """
    count = len(activations)
    named = pd.DataFrame(
        {
            "pair": np.repeat(list(pairs), 2),
            "side": np.tile(SIDES, count),
            "letter": [letter for both in letters for letter in both],
        }
    )
    parts = []
    for layer in range(activations.shape[2]):
        places, shares = _components(activations[:, :, layer].reshape(2 * count, -1))
        values = {f"pc{i + 1}": places[:, i] for i in range(2)} | {f"pc{i + 1}_share": shares[i] for i in range(2)}
        parts.append(named.assign(**values).assign(layer=layer))
    return pd.concat(parts, ignore_index=True)[["layer", *named.columns, "pc1", "pc2", "pc1_share", "pc2_share"]]


def _components(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [2N, 2] on the two directions of largest variance, and their shares of it [2]."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    total = float((centered**2).sum())
    if min(centered.shape) < 3 or not total > 0:
        return np.full((len(rows), 2), np.nan), np.full(2, np.nan)
    start = np.ones(min(centered.shape))  # else it starts at random, and another run has other last digits
    left, size, _ = svds(centered, k=2, v0=start)
    places = (left * size)[:, ::-1]
    toward = np.sign(places[0::2].mean(axis=0) - places[1::2].mean(axis=0))
    return places * np.where(toward == 0, 1.0, toward), size[::-1] ** 2 / total
