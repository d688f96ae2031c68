"""What the pairs' activations say about a vector before it is used: agreement and separability, layer by layer.

Both predict how effectively a vector steers (Braun et al. 2025, arXiv 2505.22637, abstract): the higher the cosine
similarity of the training differences, and the better separated the two sides, the more steerable the behavior. The
thresholds below are this project's, not that paper's: on the embedded model, whose directions are planted in layer 3,
all seven behaviors pass both there, and fail one or both in the layers before.

Shapes: N pairs, L layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling, codes
from caa_bench.analysis.intervals import UNBOUNDED, bootstrap_mean

HARDLY_AGREE = 0.2
"""Mean cosine: less than 4% of an average pair's squared difference then lies along the vector."""
POORLY_SEPARATED = 0.5
"""d': the best cut between two sides half a standard deviation apart puts 40% of each on the wrong side."""

BOUNDED = ("agreement", "agreeing_share", "separability")
COLUMNS = [
    "layer", "n", "n_clusters", "norm", "residual_norm", "signal_share",
    *Estimate.columns(*BOUNDED),
]  # fmt: skip


def vector_diagnostics(
    matching: np.ndarray,
    other: np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    keys: Sequence[Hashable] | None = None,
    how: Resampling = STANDARD,
) -> pd.DataFrame:
    """How well the contrast pairs agree on one direction, each pair judged by the vector of the OTHER items.

    Each pair is compared with the mean of the OTHER items; including its own item would inflate the cosine, and with
    few pairs in a wide model that alone looks like a direction. Works layer by layer, to bound memory.

    Args:
        matching, other: activations at the answer letter of the two sides of each pair. both [N, L, D]
        clusters: the item of each pair, where both option orders of one item are pairs; each its own where not given.
        keys: the matching letter of each pair. Separability is then that of pairs with the same key: what the letters
            and the order add cancels in the vector, but can be most of the spread along it (embedded model, refusal,
            layer 3: d' .14 over all pairs, .87 within the keys). As disagreement it still counts.

    Returns:
        One line a layer. `norm`: |mean difference|. `residual_norm`: median |activation|, what a dose is large or small
        against. `signal_share`: share of the mean squared difference that is the mean difference (0-1). `agreement`:
        mean cosine of a pair's difference with the vector. `agreeing_share`: share of pairs with a positive one.
        `separability`: d' of the two sides' projections on the vector (difference of their means over their pooled sd).
        The last three with 95% intervals over items (studentized bootstrap, for d' of its linear approximation): what
        other items would give with a vector of as many. Coverage in simulations: .85-.91 of 20 items, .88-.93 of 50,
        .92-.95 of 160. NaN with fewer than three items, and where nothing differs.

    Raises:
        ValueError: shapes that differ.
    """
    if matching.shape != other.shape or matching.ndim != 3:
        raise ValueError(f"matching {matching.shape} and other {other.shape} must both be [N, L, D]")
    count, layers = matching.shape[:2]
    items, order = codes(clusters or range(count)), codes(keys or [""] * count)
    several = len(set(items.tolist())) >= 3
    lines, values = [], np.full((count, layers, len(BOUNDED)), np.nan)
    for layer in range(layers):
        here = _layer_facts(matching[:, layer].astype(np.float64), other[:, layer].astype(np.float64), items)
        lines.append({"layer": layer, "n": count, "n_clusters": len(set(items.tolist())), **here.sizes})
        if several and not np.isnan(here.sizes["signal_share"]):
            apart = _separation(_within_keys(here.up, order), _within_keys(here.down, order))
            values[:, layer] = np.stack([here.cosine, here.cosine > 0, apart], axis=1)
    return _with_intervals(pd.DataFrame(lines), values, items, how)


def _with_intervals(table: pd.DataFrame, values: np.ndarray, items: np.ndarray, how: Resampling) -> pd.DataFrame:
    """The table with the estimates that have intervals. values: [N, L, BOUNDED]"""
    sizes = [name for name in COLUMNS if not name.startswith(BOUNDED)]
    table = table.reindex(columns=sizes)
    for place, name in enumerate(BOUNDED):
        within = {"agreement": (-1.0, 1.0), "agreeing_share": (0.0, 1.0)}.get(name, UNBOUNDED)
        bootstrap_mean(values[:, :, place], items, within=within, how=how).put(table, name)
    return table[COLUMNS]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer: lengths, and of each pair its cosine with the vector of the other items and both sides' place on it.

    Args:
        sizes: `norm`, `residual_norm`, `signal_share`; NaN without pairs.
        cosine / up / down: of the difference, of the matching and of the other side. each [N]
    """

    sizes: dict[str, float]
    cosine: np.ndarray
    up: np.ndarray
    down: np.ndarray


def _layer_facts(matching: np.ndarray, other: np.ndarray, items: np.ndarray) -> _Layer:
    """Lengths, and each pair against the mean difference of the other items.

    Sums are taken without BLAS, whose last bits depend on its threads.

    Args:
        matching, other: one layer's activations. both [N, D]
        items: 0-based item of each pair. [N]
    """
    count = len(matching)
    if not count:
        nothing = np.zeros(0)
        sizes = dict.fromkeys(("norm", "residual_norm", "signal_share"), np.nan)
        return _Layer(sizes=sizes, cosine=nothing, up=nothing, down=nothing)
    residual = float(np.median(np.sqrt(np.concatenate([_row_dots(matching, matching), _row_dots(other, other)]))))
    pairs = matching - other
    total, squares = pairs.sum(axis=0), _row_dots(pairs, pairs)
    size, length = float(squares.mean()), float(np.sqrt((total**2).sum()) / count)
    order = np.argsort(items, kind="stable")
    own = np.add.reduceat(pairs[order], np.flatnonzero(np.diff(items[order], prepend=-1)), axis=0)  # [items, D]
    rest = total - own[items]  # [N, D] the sum over the other items: their mean's direction, whatever its length
    reach = np.sqrt(_row_dots(rest, rest))
    return _Layer(
        sizes={
            "norm": length,
            "residual_norm": residual,
            "signal_share": length**2 / size if size > 0 else np.nan,
        },
        cosine=_over(_row_dots(pairs, rest), reach * np.sqrt(squares)),
        up=_over(_row_dots(matching, rest), reach),
        down=_over(_row_dots(other, rest), reach),
    )


def _row_dots(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nd,nd->n", one, two))


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _within_keys(places: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The places of one side, those of each key moved so that their mean is the mean of all. [N]"""
    moved = places.copy()
    for key in range(keys.max() + 1):
        moved[keys == key] += places.mean() - places[keys == key].mean()
    return moved


def _separation(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """d' plus each pair's influence on it, so that d' has a bootstrap interval like any mean. [N]

    d' = g / s with g = mean(u) - mean(v) and s^2 = (var(u) + var(v)) / 2 of the two sides' projections u and v. Its
    linear approximation (the delta method) gives pair i the influence
        ((u_i - mean u) - (v_i - mean v)) / s  -  g / (2 s^3) ((u_i - mean u)^2 - var u + (v_i - mean v)^2 - var v) / 2,
    the first part from the gap, the second from the spread; influences have mean 0.
    """
    gap, variances = up.mean() - down.mean(), (up.var(ddof=1), down.var(ddof=1))
    spread = np.sqrt(sum(variances) / 2)
    if not spread > 1e-9 * abs(gap):
        return np.full(len(up), np.nan)
    apart = (up - up.mean()) - (down - down.mean())
    wider = ((up - up.mean()) ** 2 - up.var() + (down - down.mean()) ** 2 - down.var()) / 2
    return np.asarray(gap / spread + apart / spread - gap / spread * wider / (2 * spread**2))


def as_lines(table: pd.DataFrame) -> list[dict[str, float | int | None]]:
    """A dict a layer as JSON takes it: 6 significant digits, which do not hang on the last bits; None where n/a."""
    return [{name: _kept(value) for name, value in line.items()} for line in table.to_dict("records")]


def from_lines(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table again; what is not there or no number is NaN."""
    return pd.DataFrame(list(lines)).reindex(columns=COLUMNS).apply(pd.to_numeric, errors="coerce")


def _kept(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if np.isnan(value) else float(f"{value:.6g}")
