"""What the pairs' activations say about a vector before it is used: agreement and separability, layer by layer.

Both predict how effectively a vector steers (Braun et al. 2025, arXiv 2505.22637, abstract): the higher the cosine
similarity of the training differences, and the better separated the two sides, the more steerable the behavior. The
thresholds below are this project's, not that paper's: on the embedded model, whose directions are planted in layer 3,
all seven behaviors pass both there, and fail one or both in the layers before.

Shapes: N pairs, L layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from caa_bench.analysis.estimates import STANDARD, Estimate, Resampling, codes
from caa_bench.analysis.intervals import SHARE, UNBOUNDED, bootstrap_mean, jackknife

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
        The last three with 95% intervals over items (`_influences`): what other items would give with a vector of as
        many (`make simulate`). NaN with fewer than three items, and where nothing differs.

    Raises:
        ValueError: shapes that differ.
    """
    if matching.shape != other.shape or matching.ndim != 3:
        raise ValueError(f"matching {matching.shape} and other {other.shape} must both be [N, L, D]")
    count, layers = matching.shape[:2]
    items = codes(range(count) if clusters is None else clusters)
    order = codes([""] * count if keys is None else keys)
    several = len(set(items.tolist())) >= 3
    lines, points = [], np.full((layers, len(BOUNDED)), np.nan)
    values = np.full((count, layers, len(BOUNDED)), np.nan)
    for layer in range(layers):
        sides = matching[:, layer].astype(np.float64), other[:, layer].astype(np.float64)
        here = _layer_facts(*sides, items)
        lines.append({"layer": layer, "n": count, "n_clusters": len(set(items.tolist())), **here.sizes})
        if several and not np.isnan(here.sizes["signal_share"]):
            points[layer] = _points(here, order)
            values[:, layer] = points[layer] + _influences(*sides, items, order)
    return _with_intervals(pd.DataFrame(lines), points, values, items, how)


def _with_intervals(
    table: pd.DataFrame, points: np.ndarray, values: np.ndarray, items: np.ndarray, how: Resampling
) -> pd.DataFrame:
    """The table with the estimates that have intervals. points: [L, BOUNDED]; values: [N, L, BOUNDED]"""
    sizes = [name for name in COLUMNS if not name.startswith(BOUNDED)]
    table = table.reindex(columns=sizes)
    for place, name in enumerate(BOUNDED):
        within = SHARE if name == "agreeing_share" else UNBOUNDED
        found = replace(bootstrap_mean(values[:, :, place], items, within=within, how=how), point=points[:, place])
        if name == "agreement":  # a cosine, but nothing that few items change: its range cuts the ends, no more
            found = replace(found, low=np.maximum(found.low, -1), high=np.minimum(found.high, 1))
        found.put(table, name)
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
    rest = total - _by_item(pairs, items)[items]  # [N, D] over the other items: their mean's direction
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


def _by_item(rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The sum of each item's rows. [N, D] -> [K, D]"""
    order = np.argsort(items, kind="stable")
    return np.add.reduceat(rows[order], np.flatnonzero(np.diff(items[order], prepend=-1)), axis=0)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _points(here: _Layer, keys: np.ndarray) -> np.ndarray:
    """Agreement, agreeing share and d' of one layer; d' NaN where the sides have no spread. [3]"""
    one = np.ones((len(keys), 1))
    apart = _separation(here.up[:, None], here.down[:, None], keys, one)[0]
    return np.array([here.cosine.mean(), (here.cosine > 0).mean(), apart])


def _separation(up: np.ndarray, down: np.ndarray, keys: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """d' of the sides' projections: their mean distance over the pooled sd within the keys. NaN without spread. [K]

    Args:
        up, down: of the matching and of the other sides, each column with a vector of its own. both [N, K]
        keys: 0-based key of each pair. [N]
        kept: 1 where a pair counts, else 0. [N, K]
    """
    n, squares = kept.sum(axis=0), np.zeros(kept.shape[1])
    for key in range(keys.max() + 1):
        own = kept * (keys == key)[:, None]
        for side in (up, down):
            mean = _over((own * side).sum(axis=0), own.sum(axis=0))
            squares += (own * (side - mean) ** 2).sum(axis=0)
    gap, spread = _over((kept * (up - down)).sum(axis=0), n), np.sqrt(_over(squares, 2 * (n - 1)))
    return np.divide(gap, spread, out=np.full(len(n), np.nan), where=spread > 1e-9 * np.abs(gap))


@dataclass(frozen=True, kw_only=True)
class _Products:
    """Dot products with the summed differences of whole items: all that leaving an item out needs.

    Args:
        up, down: of the matching and of the other side of each pair. both [N, K]
        between: of the items with one another. [K, K]
        length: of each pair's difference. [N]
        items: 0-based item of each pair. [N]
    """

    up: np.ndarray
    down: np.ndarray
    between: np.ndarray
    length: np.ndarray
    items: np.ndarray

    @property
    def square(self) -> np.ndarray:
        """Of each pair the squared length of the vector of the other items. [N]"""
        whole = self.between.sum(axis=0)
        return np.asarray(whole.sum() - 2 * whole[self.items] + self.between[self.items, self.items])


def _influences(matching: np.ndarray, other: np.ndarray, items: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What each pair adds to the three figures, so that they have intervals like any mean. Sum 0 over pairs. [N, 3]

    An item counts twice: as one that is judged, and as a part of the vector that judges the others. Taking each item
    out altogether and computing the figures anew (`jackknife`) sees both. It counts what two items do together, their
    dot product, twice over (Efron & Stein 1981, Annals of Statistics 9); that half is taken off: without it pairs that
    hardly agree have intervals that cover .99.

    Args:
        matching, other: one layer's activations. both [N, D]
        items / keys: 0-based, of each pair. both [N]
    """
    pairs = matching - other
    own = _by_item(pairs, items)
    made = _Products(
        up=matching @ own.T,
        down=other @ own.T,
        between=own @ own.T,
        length=np.sqrt(_row_dots(pairs, pairs)),
        items=items,
    )
    figures = _without_items(made, keys)
    variance = (len(own) - 1) * figures[0].var()
    part = np.clip(1 - _twice_counted(made) / variance, 0.5, 1) if variance > 0 else 1.0
    return np.sqrt(part) * jackknife(figures, items)


def _without_items(made: _Products, keys: np.ndarray) -> np.ndarray:
    """Agreement, agreeing share and d' of the pairs that are left where one item is taken out. [3, K]

    The share of positive cosines is a step, which the jackknife cannot follow; for it the step is smoothed, over less
    the more items there are.
    """
    items, each, count = made.items, np.arange(len(made.items)), len(made.between)
    kept = (items[:, None] != np.arange(count)).astype(float)
    over_up, over_down = (x.sum(axis=1) - x[each, items] for x in (made.up, made.down))  # the vector of the others
    square = made.square[:, None] - 2 * made.between.sum(axis=0) + np.diag(made.between) + 2 * made.between[items]
    reach = np.sqrt(np.maximum(square * kept, 0))  # [N, K] its length without one more item
    ups, downs = _over(over_up[:, None] - made.up, reach), _over(over_down[:, None] - made.down, reach)
    cosine = _over(ups - downs, made.length[:, None])
    smooth = special.ndtr(cosine / max(cosine[kept > 0].std() * count**-0.25, 1e-12))
    means = [_over((kept * figure).sum(axis=0), kept.sum(axis=0)) for figure in (cosine, smooth)]
    return np.stack([*means, _separation(ups, downs, keys, kept)])


def _twice_counted(made: _Products) -> float:
    """Of the agreement's jackknife variance, the half of what two items have together that is one too many.

    What they have together is in the vector's length too, which takes part of it away again: of x / sqrt(x + y) the
    derivative is (1 - share / 2) / sqrt(x + y), with share = x / (x + y).
    """
    whole, count = made.between.sum(), len(made.items)
    share = max(1 - np.trace(made.between) / whole, 0.0) if whole > 0 else 0.0
    scale = _over(np.full(count, (1 - share / 2) / count), made.length * np.sqrt(np.maximum(made.square, 0)))
    both = _by_item((made.up - made.down) * scale[:, None], made.items)
    return float(2 * (_alone_together((both + both.T) / 2) ** 2).sum())


def _alone_together(both: np.ndarray) -> np.ndarray:
    """What two items have beyond what each has with all others: off the diagonal, less row and column means. [K, K]"""
    count, both = len(both), both - np.diag(np.diag(both))
    rows = both.sum(axis=1) / max(count - 2, 1)
    rest = both - rows[:, None] - rows + both.sum() / max((count - 1) * (count - 2), 1)
    return np.asarray(rest - np.diag(np.diag(rest)))


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
