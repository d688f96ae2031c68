"""Agreement and separability of contrast pairs on planted directions."""

from __future__ import annotations

import numpy as np
import pytest

from caa_bench.analysis.diagnostics import vector_diagnostics


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
