"""Coverage, size and verdicts on simulated items whose truth is known. Quick here; full with `-m slow`.

The draws of one setting are columns of one matrix, resampled together, so 2,000 data sets cost seconds.
"""

from __future__ import annotations

import dataclasses

import analysis_frames as make
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.fairness import effect_at_equal_loss
from caa_bench.analysis.fits import Design, effect_intervals
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.intervals import bootstrap_mean, sign_flip
from caa_bench.analysis.stacking import evidence, stacking_table
from caa_bench.analysis.verdict import verdict_of

LOG_ODDS = {
    "normal": lambda rng, shape: rng.normal(1.0, 1.5, shape),
    "skewed": lambda rng, shape: rng.gamma(2.0, 0.7, shape),
    "two groups": lambda rng, shape: rng.normal(0.0, 0.5, shape) + 2.0 * (rng.random(shape) < 0.4),
}
CEILINGS = {"mean .90": (4.0, 2.5), "mean .90, tight": (3.0, 1.5), "mean .99": (5.0, 1.0)}


def covered(found, truth: float) -> float:
    """Of the intervals that were given; "n/a" is at most one in ten in these samples."""
    given = ~np.isnan(found.low)
    assert given.mean() >= 0.9
    return float(np.mean(((found.low <= truth) & (truth <= found.high))[given]))


def coverage_of_log_odds(draws: int) -> dict[str, float]:
    shares = {}
    for name, sample in LOG_ODDS.items():
        truth = float(sample(np.random.default_rng(99), 4_000_000).mean())
        values = sample(np.random.default_rng(1), (50, draws))
        shares[name] = covered(bootstrap_mean(values, np.arange(50)), truth)
    return shares


def coverage_at_a_ceiling(draws: int) -> dict[str, float]:
    shares = {}
    for name, (mean, sd) in CEILINGS.items():
        truth = float(expit(np.random.default_rng(99).normal(mean, sd, 4_000_000)).mean())
        values = expit(np.random.default_rng(1).normal(mean, sd, (50, draws)))
        shares[name] = covered(bootstrap_mean(values, np.arange(50), within=(0, 1)), truth)
    return shares


def coverage_with_clusters(draws: int) -> dict[str, float]:
    shares, rng = {}, np.random.default_rng(2)
    for clusters, size in ((10, 5), (12, 10), (25, 4)):
        codes = np.repeat(np.arange(clusters), size)
        values = rng.normal(1.0, 1.0, (clusters, draws))[codes] + rng.normal(0, 1.0, (len(codes), draws))
        shares[f"{clusters} clusters of {size}"] = covered(bootstrap_mean(values, codes), 1.0)
    return shares


def sign_flip_size(draws: int) -> dict[str, float]:
    rng, codes = np.random.default_rng(3), np.repeat(np.arange(10), 5)
    samples = {
        "normal": rng.normal(0, 1.5, (50, draws)),
        "heavy tails": rng.standard_t(3, (50, draws)),
        "skewed (1.4)": rng.gamma(2.0, 0.7, (50, draws)) - 1.4,
    }
    shares = {name: float(np.mean(sign_flip(values, np.arange(50)) < 0.05)) for name, values in samples.items()}
    clustered = rng.normal(0, 1, (10, draws))[codes] + rng.normal(0, 1, (50, draws))
    return {**shares, "10 clusters of 5": float(np.mean(sign_flip(clustered, codes) < 0.05))}


def coverage_over_fits(draws: int) -> dict[str, float]:
    shares, rng = {}, np.random.default_rng(4)
    for n_fits in (3, 5):
        values = rng.normal(0, 1, (50, draws, 1)) + rng.normal(0, 0.3, (1, draws, n_fits))
        values = values + rng.normal(0, 0.5, (50, draws, n_fits))
        design = Design(clusters=np.arange(50), n_fits=np.full(draws, n_fits))
        shares[f"{n_fits} fits"] = covered(effect_intervals(values, design), 0.0)
    return shares


def simulate(
    retention: float, *, n: int = 200, draws: int, base: float = 0.0, seed: int = 7, **how: float
) -> pd.DataFrame:
    """Verdicts of independent stacks with one true retention, each a family of its own (q = p: the most liberal)."""
    values, cells = make.simulated_stacks(
        retention, n=n, draws=draws, base=base, rng=np.random.default_rng(seed), **how
    )
    table = stacking_table(grouped(make.scores(values), cells), how=Resampling(draws=999))
    verdicts = [
        verdict_of(dataclasses.replace(evidence(line), q=line["p_value"]), vector="CAA")
        for line in table.to_dict("records")
    ]
    return table.assign(verdict=[v.verdict for v in verdicts], verdict_text=[v.text for v in verdicts])


TRUTHS = {0.0: "adds nothing", 0.5: "adds less", 1.0: "adds fully", 1.6: "adds more", -0.4: "works against"}


def verdict_shares(draws: int, *, n: int = 200) -> pd.DataFrame:
    """Share of each verdict (rows) at each true retention (columns)."""
    shares = {truth: simulate(truth, n=n, draws=draws)["verdict"].value_counts(normalize=True) for truth in TRUTHS}
    return pd.DataFrame(shares).fillna(0.0)


def assert_verdicts(shares: pd.DataFrame) -> None:
    for truth, verdict in TRUTHS.items():
        assert shares.loc[verdict, truth] >= 0.95, shares[truth]
    assert shares[1.0].reindex(["adds less", "adds more"]).sum() <= 0.05, shares[1.0]


def test_intervals_cover_quick():
    """Wide bounds for 300 draws (binomial sd .013); the figures themselves are the slow test's."""
    assert all(0.92 <= share <= 0.98 for share in coverage_of_log_odds(300).values())
    assert all(share >= 0.91 for share in coverage_at_a_ceiling(300).values())
    assert all(0.91 <= share <= 0.98 for share in coverage_with_clusters(300).values())
    assert all(share >= 0.90 for share in coverage_over_fits(300).values())
    assert all(share <= 0.08 for share in sign_flip_size(300).values())


def test_verdicts_find_the_true_retention_quick():
    assert_verdicts(verdict_shares(40))


def only_here_rate(draws: int) -> float:
    """Share of "adds only here" where both effects are .3, at n = 50: there is no interaction to find."""
    made = simulate(1.0, n=50, draws=draws, effect=0.3, effect_sd=1.0, noise=0.5)
    return float(made["verdict"].eq("adds only here").mean())


def budget_passed(draws: int, *, doses: int) -> float:
    """How often one of several doses, each with a true loss of .06 on 100 items, is within a budget of .03."""
    values = np.random.default_rng(6).normal(0.06, 0.15, (100, draws * doses))
    loss = bootstrap_mean(values, np.arange(100), how=Resampling(draws=999))
    curve = pd.DataFrame({"arm": np.repeat(np.arange(draws), doses), "effect": 1.0})
    curve = curve.assign(capability_loss=loss.point, capability_loss_high=loss.high)
    return float((effect_at_equal_loss(curve, budgets=(0.03,))["doses"] > 0).mean())


def test_adds_only_here_needs_an_interaction_quick():
    assert only_here_rate(200) <= 0.05


def test_a_loss_over_the_budget_hardly_passes_quick():
    """By the points, .06 - .03 = 2 standard errors: 17% of runs with 8 doses would pass."""
    assert budget_passed(200, doses=8) <= 0.02


def test_a_base_near_zero_is_log_odds_only_and_one_near_one_has_no_room():
    floor = simulate(0.8, draws=30, base=-7.5, effect=3.5, effect_sd=0.5)
    assert floor["p_before"].median() == pytest.approx(0.001, abs=5e-4)
    assert floor["p_after"].median() == pytest.approx(0.015, abs=0.01)
    assert floor["verdict_text"].str.contains("log-odds only (.00 -> .0", regex=False).all()
    ceiling = simulate(1.0, draws=30, base=3.8)
    assert ceiling["p_before"].median() == pytest.approx(0.97, abs=0.005)
    assert ceiling["verdict_text"].str.startswith("no room; ").all()


@pytest.mark.slow
def test_intervals_and_tests_keep_their_promises():
    """Promise 22: 93-97% on log-odds at n = 50, at least 92% on p near a ceiling, sign-flip size at most 6%."""
    figures = {
        "log-odds": coverage_of_log_odds(4000),
        "ceiling": coverage_at_a_ceiling(4000),
        "clusters": coverage_with_clusters(4000),
        "fits": coverage_over_fits(4000),
        "size": sign_flip_size(4000),
    }
    print(figures)
    assert all(0.93 <= share <= 0.97 for share in figures["log-odds"].values()), figures
    assert all(share >= 0.92 for share in figures["ceiling"].values()), figures
    assert all(0.93 <= share <= 0.97 for share in figures["clusters"].values()), figures
    assert all(share >= 0.92 for share in figures["fits"].values()), figures
    # Turning signs assumes symmetry; with a skewness of 1.4 the size is .066 (a t test's is no better). "adds less" and
    # "adds more" therefore also ask that the retention interval leaves 1 out.
    skewed = figures["size"].pop("skewed (1.4)")
    assert skewed <= 0.075 and all(share <= 0.06 for share in figures["size"].values()), figures


@pytest.mark.slow
def test_verdicts_find_the_true_retention():
    """Issue 7: right in at least 95% of draws at n = 200; a true 1 is "adds less" or "adds more" in at most 5%."""
    shares = verdict_shares(1000)
    print(shares.round(3).to_string())
    assert_verdicts(shares)


@pytest.mark.slow
def test_adds_fully_needs_items():
    """docs/numbers.md 10: with noise as in the published items, .21 of the time at 50 items, .78 at 100, .99 at 200."""
    found = {n: simulate(1.0, n=n, draws=1000, noise=1.35)["verdict"].eq("adds fully").mean() for n in (50, 100, 200)}
    print(found)
    assert found[50] < 0.4 and 0.6 < found[100] < 0.9 and found[200] > 0.93
