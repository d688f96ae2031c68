"""Intervals and tests against scipy, closed forms and edge cases. docs/numbers.md 6-9 and 13."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from caa_bench.analysis.estimates import Estimate, Interval, Resampling, cluster_sums
from caa_bench.analysis.fits import Design, effect_ratios
from caa_bench.analysis.intervals import (
    SHARE,
    _bca_ends,
    among,
    benjamini_hochberg,
    bootstrap_mean,
    can_show_loss,
    p_values,
    sign_flip,
    standard_error,
)
from caa_bench.analysis.power import (
    Noise,
    adds_fully_power,
    detectable_effect,
    items_needed,
    items_to_settle,
    t_test_power,
)

FEW = Resampling(draws=999)


def sample(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 1.5, shape)


def fieller(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The ratio of two effects [N, 1] of one fit."""
    design = Design(clusters=clusters, n_fits=np.ones(top.shape[1], dtype=int))
    return effect_ratios(top[:, :, None], bottom[:, :, None], design)


def test_bca_agrees_with_scipy():
    """Different random resamples: within what 9,999 draws leave."""
    values = np.random.default_rng(2).gamma(1.0, 1.0, 60)
    low, high = _bca_ends(cluster_sums(values[:, None], np.arange(60)), Resampling().weights(60))[:, 0]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=5).confidence_interval
    width = theirs.high - theirs.low
    assert [low, high] == pytest.approx(list(theirs), abs=0.04 * width)


def test_the_ends_are_the_outer_ones_of_a_plain_bootstrap_t_loop_and_of_t():
    """The matrix form against the textbook loop on the very same resamples."""
    values, weights = sample((30, 1)), Resampling(draws=999).weights(30)
    mean, se = values.mean(), values.std(ddof=1) / np.sqrt(30)
    t = []
    for column in weights.T:
        drawn = np.repeat(values[:, 0], column.astype(int))
        t.append((drawn.mean() - mean) / (drawn.std(ddof=0) * np.sqrt(30 / 29) / np.sqrt(30)))
    low, high = np.quantile(t, [0.025, 0.975])
    ours = bootstrap_mean(values, np.arange(30), how=Resampling(draws=999))
    assert ours.se[0] == pytest.approx(se, rel=1e-12)
    reach = stats.t.ppf(0.975, 29) * se
    assert ours.low[0] == pytest.approx(min(mean - high * se, mean - reach), rel=1e-8)
    assert ours.high[0] == pytest.approx(max(mean - low * se, mean + reach), rel=1e-8)


def test_an_interval_of_normal_values_is_close_to_the_t_interval():
    values = sample((200, 1))
    ours, t = bootstrap_mean(values, np.arange(200)), stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert [ours.low[0], ours.high[0]] == pytest.approx([t.low, t.high], abs=0.05 * (t.high - t.low))


def test_clusters_widen_the_interval_to_that_of_their_means():
    """Items that repeat their cluster's value carry no more than the cluster: SE is that of the 20 cluster means."""
    means = sample((20, 1))
    repeated, clusters = np.repeat(means, 10, axis=0), np.repeat(np.arange(20), 10)
    wide, narrow = bootstrap_mean(repeated, clusters), bootstrap_mean(repeated, np.arange(200))
    assert wide.se[0] == pytest.approx(means.std(ddof=1) / np.sqrt(20))
    assert wide.high[0] - wide.low[0] > 2.5 * (narrow.high[0] - narrow.low[0])
    assert (wide.n[0], wide.n_clusters[0]) == (200, 20)


def test_unequal_clusters_are_weighted_by_their_items():
    clusters = np.repeat(np.arange(12), np.arange(1, 13))
    values = sample((len(clusters), 1))
    found = bootstrap_mean(values, clusters)
    assert found.point[0] == pytest.approx(values.mean())
    assert found.low[0] < values.mean() < found.high[0]


def test_all_equal_gives_the_point_and_no_p_value():
    values = np.full((50, 1), 0.1 + 0.2)
    found = bootstrap_mean(values, np.arange(50))
    assert found.low[0] == found.high[0] == found.point[0]
    assert np.isnan(sign_flip(values, np.arange(50))[0])


@pytest.mark.parametrize(("items", "clusters"), [(0, 0), (1, 1), (19, 19), (50, 1), (50, 9)])
def test_too_little_data_gives_no_interval_and_no_p_value(items, clusters):
    values = np.full((50, 1), np.nan)
    values[:items, 0] = sample((items,))
    codes = np.minimum(np.arange(50), max(clusters - 1, 0))
    found = bootstrap_mean(values, codes)
    assert np.isnan(found.low[0]) and np.isnan(found.high[0]) and np.isnan(sign_flip(values, codes)[0])
    assert found.n[0] == items and found.n_clusters[0] == clusters
    assert np.isnan(found.point[0]) == (items == 0)


def test_missing_items_are_left_out_of_their_own_effect_only():
    values = sample((60, 2))
    values[40:, 1] = np.nan
    found = bootstrap_mean(values, np.arange(60))
    assert found.n.tolist() == [60, 40]
    assert found.point == pytest.approx([values[:, 0].mean(), values[:40, 1].mean()])
    assert found.se[1] == pytest.approx(values[:40, 1].std(ddof=1) / np.sqrt(40))


def test_one_odd_item_among_equal_ones_does_not_blow_the_interval_up():
    """A third of the resamples have no spread at all; the studentised end would be infinite."""
    values = np.full((50, 1), 0.999)
    values[7] = 0.2
    found = bootstrap_mean(values, np.arange(50), within=(0, 1))
    assert 0.89 < found.low[0] < found.point[0] <= found.high[0] <= 1
    unbounded = bootstrap_mean(np.where(values < 0.5, 4.0, 0.0), np.arange(50))
    assert np.isnan([unbounded.low[0], unbounded.high[0]]).all(), "one item is all there is to an effect"
    assert unbounded.point[0] == pytest.approx(0.08)


def test_a_level_near_1_has_the_end_of_a_share():
    """All 50 items right says no more than Jeffreys' interval of 50 of 50 does; equal values elsewhere are a point."""
    values = np.column_stack([np.full(50, 1.0), np.full(50, 0.9999), np.full(50, 0.5)])
    found = bootstrap_mean(values, np.arange(50), within=(0, 1))
    score = stats.beta.ppf(0.025, 50.5, 0.5)
    assert found.low[:2] == pytest.approx([score, score], abs=1e-3)
    assert found.high[:2] == pytest.approx([1, 1], abs=1e-4)
    assert (found.low[2], found.high[2]) == (0.5, 0.5)


@pytest.mark.parametrize("level", [1e-9, 1e-4, 0.3, 0.999999, 1 - 1e-12])
def test_a_level_stands_in_its_interval(level: float):
    """Also where it is nearer to 0 or 1 than the prior of a share allows for."""
    for spread in (0.0, 0.1 * min(level, 1 - level)):
        values = level + spread * np.linspace(-1, 1, 60)[:, None]
        found = bootstrap_mean(values, np.arange(60), within=SHARE)
        assert 0 <= found.low[0] <= found.point[0] <= found.high[0] <= 1


def test_a_level_is_worth_as_many_answers_as_its_spread_says():
    """15 of 20 right, and the same answers each asked four times: the interval stays, as the items are no more."""
    right = np.repeat([1.0, 0.0], [15, 5])
    worth = 20 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 19)) ** 2 * 19 / 20  # SE^2 has N - 1 below
    ends = stats.beta.ppf([0.025, 0.975], 0.75 * worth + 0.5, 0.25 * worth + 0.5)
    once = bootstrap_mean(right[:, None], np.arange(20), within=SHARE)
    asked_again = bootstrap_mean(np.repeat(right, 4)[:, None], np.repeat(np.arange(20), 4), within=SHARE)
    assert [once.low[0], once.high[0]] == pytest.approx(list(ends))
    assert [asked_again.low[0], asked_again.high[0]] == pytest.approx(list(ends))
    between = bootstrap_mean((right[:, None] + 1) / 4, np.arange(20), within=SHARE)  # .5 and .25, a mean of .4375
    assert between.high[0] - between.low[0] < 0.3 * (once.high[0] - once.low[0])


def test_an_infinite_score_is_refused():
    with pytest.raises(ValueError, match="infinite"):
        cluster_sums(np.array([[1.0], [np.inf]]), np.arange(2))


def test_sign_flip_agrees_with_scipys_permutation_test():
    values = np.random.default_rng(4).normal(0.3, 1.0, (40, 1))
    theirs = stats.permutation_test(
        (values[:, 0],), np.mean, permutation_type="samples", n_resamples=20000, vectorized=True, rng=1
    )
    assert sign_flip(values, np.arange(40))[0] == pytest.approx(theirs.pvalue, abs=0.01)


def test_sign_flip_turns_whole_clusters():
    """Ten clusters with a consistent sign in eight: the exact p over 2^10 signs of the cluster sums."""
    totals = np.array([2.0, 1.5, 1.2, 0.9, 0.7, 0.6, 0.5, 0.4, -0.3, -0.8])
    values, clusters = np.repeat(totals / 3, 3)[:, None], np.repeat(np.arange(10), 3)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    exact = np.mean(np.abs(totals @ signs) >= np.abs(totals.sum()) - 1e-12)
    assert sign_flip(values, clusters)[0] == pytest.approx(exact, abs=0.006)


def test_fieller_is_the_set_of_ratios_a_t_test_does_not_reject():
    rng = np.random.default_rng(3)
    alone = rng.normal(1.0, 1.0, 80)
    on_top = 0.6 * alone + rng.normal(0, 0.4, 80)
    found = fieller(on_top[:, None], alone[:, None], np.arange(80))
    for end in (found.low[0], found.high[0]):
        assert stats.ttest_1samp(on_top - end * alone, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert found.point[0] == pytest.approx(on_top.mean() / alone.mean())


def test_fieller_has_no_ends_where_the_denominator_may_be_zero():
    rng = np.random.default_rng(3)
    found = fieller(rng.normal(1, 1, (50, 1)), rng.normal(0.05, 1, (50, 1)), np.arange(50))
    assert np.isnan(found.low[0]) and np.isnan(found.high[0]) and np.isfinite(found.point[0])


def test_benjamini_hochberg_leaves_untested_lines_out():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    assert benjamini_hochberg(p) == pytest.approx([0.03, np.nan, 0.04, 0.04], nan_ok=True)
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


def test_intervals_do_not_depend_on_item_order_or_on_their_neighbours():
    values, clusters = sample((90, 70)), np.repeat(np.arange(30), 3)
    order = np.random.default_rng(1).permutation(90)
    straight, shuffled = bootstrap_mean(values, clusters), bootstrap_mean(values[order], clusters[order])
    assert shuffled.low == pytest.approx(straight.low, rel=1e-9)
    alone = bootstrap_mean(values[:, 66:67], clusters)
    assert (alone.low[0], alone.high[0]) == (straight.low[66], straight.high[66])


PRINT_BITS = """
import numpy as np
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.intervals import bootstrap_mean, sign_flip
values = np.random.default_rng(0).normal(1, 1.5, (120, 130))
found = bootstrap_mean(values, np.repeat(np.arange(40), 3), how=Resampling(draws=2999))
flipped = sign_flip(values, np.arange(120), how=Resampling(draws=2999))
print(*(array.tobytes().hex() for array in (found.low, found.high, flipped)))
"""


def test_the_same_bits_in_other_processes_with_other_thread_counts():
    outputs = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", PRINT_BITS], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(run.stdout)
    assert len(outputs) == 1 and len(outputs.pop()) > 1000


def test_power_counts_items_as_the_noncentral_t_does():
    n = items_needed(0.5, Noise(items=1.2))
    assert t_test_power(0.5, Noise(items=1.2), n=n) >= 0.8 > t_test_power(0.5, Noise(items=1.2), n=n - 1)
    assert n == 48  # statsmodels TTestPower().solve_power(0.5 / 1.2, power=0.8, alpha=0.05) = 47.16
    assert items_needed(-0.5, Noise(items=1.2)) == n and items_needed(0.5, Noise(items=1.2), power=0.9) > n


def test_the_detectable_effect_is_the_one_the_items_needed_would_find():
    n = items_needed(0.3, Noise(items=1.0))
    assert detectable_effect(1.0 / np.sqrt(n)) == pytest.approx(0.3, rel=0.02)
    assert detectable_effect(1.0) == pytest.approx(2.8, abs=0.01)


def test_no_number_of_items_finds_no_effect():
    with pytest.raises(ValueError, match="must not be 0"):
        items_needed(0.0, Noise(items=1.0))


def test_standard_error_needs_two_clusters():
    assert np.isnan(standard_error(cluster_sums(np.ones((5, 1)), np.zeros(5, dtype=int)))[0])


def test_adds_fully_takes_as_many_items_as_the_simulation_says():
    """The slow simulation with effect 1.5, sd 1.35: .19 at 50 items, .72 at 100, .97 at 200."""
    powers = [adds_fully_power(1.5, Noise(items=1.35), n=n) for n in (50, 100, 200)]
    assert powers == pytest.approx([0.19, 0.72, 0.97], abs=0.05)
    n = items_to_settle(1.5, Noise(items=1.35))
    assert 100 < n < 150 and adds_fully_power(1.5, Noise(items=1.35), n=n) >= 0.8 > adds_fully_power(
        1.5, Noise(items=1.35), n=n - 1
    )
    with pytest.raises(ValueError, match="positive"):
        items_to_settle(-1.0, Noise(items=1.0))


def test_skewed_few_items_reach_further_on_the_long_tail_s_side():
    """A skewed sample of 20: the upper end is 3.6 times as far out as the bootstrap's."""
    values = np.random.default_rng(6).exponential(size=(60, 1)) ** 1.5
    few, many = values[:20], np.tile(values[:20], (4, 1))
    assert stats.skew(few[:, 0]) > 2
    found = bootstrap_mean(few, np.arange(20))
    reach = stats.t.ppf(0.975, 19) * found.se[0]
    assert found.high[0] - found.point[0] >= 3.6 * reach * (1 - 1e-9)
    assert bootstrap_mean(-few, np.arange(20)).low[0] == pytest.approx(-found.high[0], rel=0.05)
    assert bootstrap_mean(many, np.arange(80)).high[0] - found.point[0] < reach, "80 clusters are not few"


def test_a_difference_of_answers_knows_of_those_that_were_not_drawn():
    """None of 120 answers changes by more than a hair: Jeffreys' end of 0 of 120 on both sides."""
    hair = np.random.default_rng(1).normal(0, 1e-4, (120, 1))
    found = bootstrap_mean(np.column_stack([hair, np.zeros((120, 1))]), np.arange(120), within=(-1, 1))
    end = stats.beta.ppf(0.975, 0.5, 120.5)
    assert (found.low[0], found.high[0]) == (pytest.approx(-end, rel=0.05), pytest.approx(end, rel=0.05))
    assert (found.low[1], found.high[1]) == (0, 0)
    one = hair.copy()
    one[3] = -1.0
    lost = bootstrap_mean(one, np.arange(120), within=(-1, 1))
    assert lost.low[0] <= 1.001 * -stats.beta.ppf(0.975, 1.5, 119.5) and can_show_loss(120, 0.03)
    assert not can_show_loss(60, 0.03)


def test_p_is_under_5_percent_where_the_interval_leaves_0_out():
    """To the bits of two tests that are not quite one: of 300 samples of each shape nearly all agree."""
    rng = np.random.default_rng(8)
    for values in (
        rng.normal(0.3, 1, (50, 300)),
        rng.gamma(1 / 9, 1.0, (50, 300)) - 1 / 9,
        rng.exponential(size=(25, 300)) - 1,
    ):
        found, p = (
            bootstrap_mean(values, np.arange(len(values)), how=FEW),
            p_values(values, np.arange(len(values)), how=FEW),
        )
        known = ~np.isnan(found.low)
        assert (np.isnan(p) == ~known).all()
        apart = (found.low > 0) | (found.high < 0)
        assert np.mean(((p < 0.05) == apart)[known]) > 0.97


def test_the_largest_of_many_is_moved_towards_0_alone():
    span = Interval(1.0, 0.5, 1.5)
    assert among(span, tries=1) == span and among(span, tries=2).low == pytest.approx(0.5)
    wide = among(span, tries=16)
    assert wide.high == 1.5 and wide.low == pytest.approx(
        1 - 0.5 * stats.norm.ppf(1 - 0.05 / 16) / stats.norm.ppf(0.975)
    )
    down = among(Interval(-1.0, -1.5, -0.5), tries=16)
    assert (down.low, down.high) == (-1.5, pytest.approx(-wide.low))
    with pytest.raises(ValueError, match="1 or more"):
        among(span, tries=0)
