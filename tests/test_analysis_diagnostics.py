"""Agreement and separability of contrast pairs on planted directions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from caa_bench.analysis.diagnostics import BOUNDED, COLUMNS, _influences, as_lines, from_lines, vector_diagnostics
from caa_bench.analysis.estimates import Resampling


def pairs(signal: float, *, n: int = 400, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sides at +-signal/2 along one direction, each with unit noise in every dimension. [N, 1, D] each"""
    rng = np.random.default_rng(seed)
    direction = np.zeros(width)
    direction[0] = signal / 2
    return rng.normal(size=(n, 1, width)) + direction, rng.normal(size=(n, 1, width)) - direction


def test_a_planted_direction_is_found_in_its_own_layer_only():
    planted, noise = pairs(4.0), pairs(0.0, seed=1)
    both = [np.concatenate([one, two], axis=1) for one, two in zip(planted, noise, strict=True)]
    table = vector_diagnostics(*both).set_index("layer")
    assert table.loc[0, "separability"] == pytest.approx(4.0, abs=0.25)  # d' = signal over unit noise
    assert table.loc[0, "norm"] == pytest.approx(4.0, abs=0.15)
    assert table.loc[0, "signal_share"] == pytest.approx(16 / (16 + 2 * 64), abs=0.02)
    assert table.loc[0, "agreement"] == pytest.approx(4 / np.sqrt(16 + 2 * 64), abs=0.03)
    assert table.loc[0, "agreeing_share"] > 0.97
    assert abs(table.loc[1, "agreement"]) < 0.05 and abs(table.loc[1, "separability"]) < 0.3


def test_few_pairs_of_noise_do_not_look_like_a_direction():
    """With the pair left in its own vector, five pairs in 4,000 dimensions would agree at .45."""
    table = vector_diagnostics(*pairs(0.0, n=5, width=4000))
    assert abs(table.loc[0, "agreement"]) < 0.05


def test_identical_pairs_agree_and_no_difference_is_not_a_number():
    same = np.ones((6, 1, 3))
    table = vector_diagnostics(same * 2, same)
    assert table.loc[0, "agreement"] == pytest.approx(1.0) and table.loc[0, "signal_share"] == pytest.approx(1.0)
    assert np.isnan(table.loc[0, "separability"])  # no spread: d' is not infinite, it is unknown
    assert vector_diagnostics(same, same).loc[0, ["agreement", "separability"]].isna().all()
    assert vector_diagnostics(same[:0], same[:0]).loc[0, ["norm", "agreement"]].isna().all()
    with pytest.raises(ValueError, match=r"\[N, L, D\]"):
        vector_diagnostics(same, same[:, 0])


def test_both_orders_of_an_item_never_judge_each_other():
    """Equal twins of pure noise: alone in the vector with its twin, each pair would agree with itself."""
    one, two = pairs(0.0, n=12, width=4000)
    twins = [np.repeat(side, 2, axis=0) for side in (one, two)]
    items = [f"train/{n // 2:04d}" for n in range(24)]
    assert vector_diagnostics(*twins).loc[0, "agreement"] > 0.15
    found = vector_diagnostics(*twins, clusters=items).iloc[0]
    assert abs(found["agreement"]) < 0.02
    assert (found["n"], found["n_clusters"]) == (24, 12)
    renamed = vector_diagnostics(*twins, clusters=items[::-1]).iloc[0]
    assert renamed[["agreement", "separability"]].tolist() == found[["agreement", "separability"]].tolist()


def test_what_the_key_adds_is_no_overlap():
    """Prompts whose matching letter is A lie far from the others: within a key the sides are as far apart as before."""
    matching, other = pairs(2.0)
    keys = ["(A)" if n % 2 else "(B)" for n in range(400)]
    before = vector_diagnostics(matching, other, keys=keys).loc[0, "separability"]
    for side in (matching, other):
        side[::2, :, 0] += 20
    over_all = vector_diagnostics(matching, other).loc[0, "separability"]
    found = vector_diagnostics(matching, other, keys=keys).iloc[0]
    assert over_all < 0.3
    assert found["separability"] == pytest.approx(before, rel=0.02) == pytest.approx(2.0, abs=0.25)
    assert found["separability_low"] < found["separability"] < found["separability_high"]


def test_each_number_is_what_a_plain_computation_gives():
    matching, other = (side[:, 0] for side in pairs(2.0, n=30, width=8))
    found = vector_diagnostics(matching[:, None], other[:, None]).iloc[0]
    cosine, up, down = [], [], []
    for n in range(30):
        rest = np.delete(matching - other, n, axis=0).mean(axis=0)
        cosine.append((matching - other)[n] @ rest / np.linalg.norm((matching - other)[n]) / np.linalg.norm(rest))
        up.append(matching[n] @ rest / np.linalg.norm(rest))
        down.append(other[n] @ rest / np.linalg.norm(rest))
    spread = np.sqrt((np.var(up, ddof=1) + np.var(down, ddof=1)) / 2)
    assert found["agreement"] == pytest.approx(np.mean(cosine))
    assert found["agreeing_share"] == np.mean(np.array(cosine) > 0)
    assert found["separability"] == pytest.approx((np.mean(up) - np.mean(down)) / spread)
    assert found["residual_norm"] == pytest.approx(np.median(np.linalg.norm([*matching, *other], axis=1)))
    for name in BOUNDED:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    few = vector_diagnostics(matching[:19, None], other[:19, None]).iloc[0]
    assert np.isnan(few["agreement_low"]) and not np.isnan(few["agreement"])


@pytest.mark.parametrize("signal", [0.3, 2.5])
def test_the_intervals_hold_what_other_items_give(signal: float):
    """300 layers are 300 samples of 60 items, and 95% hold the mean over all; the signal is weak or plain."""
    rng = np.random.default_rng(3)
    sides = rng.normal(size=(2, 60, 300, 24))
    sides[0, :, :, 0] += signal
    found = vector_diagnostics(*sides, how=Resampling(draws=499))
    for name in BOUNDED:
        inside = (found[f"{name}_low"] <= found[name].mean()) & (found[name].mean() <= found[f"{name}_high"])
        assert 0.92 <= inside.mean() <= 0.985, name


def test_what_an_item_adds_is_what_is_left_without_it():
    """The jackknife by hand, item by item. What two items have together is taken off alike for all."""
    matching, other = (side[:, 0] for side in pairs(2.0, n=24, width=8))
    items = np.repeat(np.arange(12), 2)
    given = _influences(matching, other, items, np.zeros(24, dtype=int))

    def agreement(kept: np.ndarray) -> float:
        return vector_diagnostics(matching[kept, None], other[kept, None], clusters=items[kept])["agreement"][0]

    without = np.array([agreement(items != item) for item in range(12)])
    by_hand = 11 * (without.mean() - without)
    ratio = given[::2, 0] / by_hand
    assert ratio == pytest.approx(np.full(12, ratio[0]))
    assert 0.5**0.5 <= ratio[0] <= 1
    assert given.sum(axis=0) == pytest.approx(0, abs=1e-9)


def test_few_pairs_that_hardly_agree_have_no_wide_interval():
    """A small cosine is no rare answer: its ends came from a share's interval, .29 wide whatever the pairs said."""
    found = vector_diagnostics(*pairs(0.5, n=20, width=512)).iloc[0]
    assert 0.02 < found["agreement_high"] - found["agreement_low"] < 0.15


def test_lines_are_json_and_come_back():
    """Six digits; a layer without spread keeps its place with nothing in it."""
    same = np.ones((24, 1, 3))
    table = vector_diagnostics(same * 2, same)
    lines = as_lines(table)
    assert lines[0]["separability"] is None and lines[0]["n"] == 24
    back = from_lines(json.loads(json.dumps(lines, allow_nan=False)))
    assert list(back) == COLUMNS
    pd.testing.assert_frame_equal(back, table, rtol=1e-5, check_dtype=False)
    assert from_lines([{"layer": 0, "agreement": "x"}]).loc[0, COLUMNS[1:]].isna().all()
