"""The choice rule on made-up items: gates, ties, the rival and the chance that nothing looks like something."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from analysis_frames import cell, frame

from caa_bench.analysis.choice import Candidate, chance, choose, weigh
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.warn import RunFacts
from caa_bench.analysis.warn_vectors import Method, not_felt, steered_too_far

N = 40
NOISE = np.random.default_rng(0).normal(0, 0.3, N)
NOISE -= NOISE.mean()


def scores(
    log_odds: Mapping[str, np.ndarray], *, mass: Mapping[str, float] | None = None, p: float = 0.5
) -> pd.DataFrame:
    """Item scores: one line a cell and item."""
    kept = mass or {}
    lines = [
        {
            "cell": key, "item": f"selection/{n:04d}", "cluster": f"c{n}", "log_odds": value, "p_balanced": p,
            "option_mass": kept.get(key, 0.8),
        }
        for key, values in log_odds.items()
        for n, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def both(layer: int, dose: float) -> Candidate:
    """A candidate with both directions, its cells named after it."""
    return Candidate(
        group=f"layer {layer}",
        cells={1: f"{layer}+{dose:g}", -1: f"{layer}-{dose:g}"},
        settings={"layer": layer, "multiplier": dose},
    )


def moved(by: list[tuple[Candidate, float, float]]) -> dict[str, np.ndarray]:
    """Log-odds of the unchanged model, 0.1, and of each candidate's cells: up and down by so much, and some noise."""
    found = {"none": np.full(N, 0.1)}
    for place, (one, up, down) in enumerate(by):
        found[one.cells[1]] = 0.1 + up + np.roll(NOISE, place)
        found[one.cells[-1]] = 0.1 - down - np.roll(NOISE, place)
    return found


def test_the_effect_is_the_mean_of_both_directions_and_the_largest_is_chosen() -> None:
    tried = [both(2, 1), both(3, 1), both(4, 1)]
    weighed = weigh(
        tried, scores(moved([(tried[0], 0.2, 0.4), (tried[1], 1.0, 2.0), (tried[2], 0.5, 0.5)])), unchanged="none"
    )
    assert weighed.table["effect"].tolist() == pytest.approx([0.3, 1.5, 0.5])
    line = weighed.table.iloc[1]
    assert line["shift_up"] == pytest.approx(1.0)
    assert line["shift_down"] == pytest.approx(-2.0)
    found = choose(weighed)
    assert (found.index, found.rival, found.worked, found.why) == (1, 2, True, "")
    assert found.lead == pytest.approx(1.0)


def test_the_rival_is_of_another_group_and_the_lead_is_paired_by_item() -> None:
    near, best, other = both(3, 1), both(3, 2), both(5, 1)
    y = moved([(near, 0.95, 0.95), (best, 1.0, 1.0), (other, 0.9, 0.9)])
    spread = np.random.default_rng(1).normal(0, 2, N)  # of the items, the same under every candidate
    y = {key: values + (spread if "+" in key else -spread if "-" in key else 0) for key, values in y.items()}
    found = choose(weigh([near, best, other], scores(y), unchanged="none"))
    assert (found.index, found.rival) == (1, 2)
    assert found.lead == pytest.approx(0.1)
    assert 0 < found.lead_high - found.lead_low < 0.5, "the items' own spread, 2 log-odds, cancels"


def test_a_larger_effect_with_lost_option_mass_is_left_out() -> None:
    far, fair = both(3, 4), both(3, 1)
    y = moved([(far, 3.0, 3.0), (fair, 0.8, 0.8)])
    weighed = weigh([far, fair], scores(y, mass={"none": 0.8, "3+4": 0.71, "3-4": 0.9}), unchanged="none")
    assert weighed.table["mass_kept"].tolist() == pytest.approx([0.71 / 0.8, 1.0])
    assert choose(weighed).index == 1
    barely = weigh([far, fair], scores(y, mass={"none": 0.8, "3+4": 0.721}), unchanged="none")
    assert choose(barely).index == 0, "relative to the unsteered model's own .8, .721 is more than .9"


def test_where_nothing_keeps_its_option_mass_the_largest_goes_on_marked() -> None:
    far, farther = both(3, 4), both(3, 8)
    y = moved([(far, 2.0, 2.0), (farther, 3.0, 3.0)])
    found = choose(weigh([far, farther], scores(y, mass={"none": 0.9}), unchanged="none"))
    assert (found.index, found.worked, found.rival) == (1, False, None)
    assert found.why == "it keeps only 0.89 of the unsteered option mass, less than 0.9"


def capability(lost: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """p(correct) .9 without steering, less what is lost."""
    lines = [
        {
            "cell": key, "item": f"facts/{n:04d}", "cluster": f"f{n}", "log_odds": 0.0, "option_mass": 1.0,
            "p_balanced": 0.9 - loss,
        }
        for key, values in {"none": np.zeros(len(next(iter(lost.values())))), **lost}.items()
        for n, loss in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_capability_is_judged_by_its_intervals_upper_end_and_its_worse_direction() -> None:
    dear, cheap, unknown = both(3, 4), both(3, 1), both(4, 1)
    y = scores(moved([(dear, 3.0, 3.0), (cheap, 0.8, 0.8), (unknown, 2.0, 2.0)]))
    noisy = np.tile(0.027 + 0.1 * (NOISE - NOISE.mean()), 200 // N + 1)[
        :200
    ]  # its mean is under .03, but its interval reaches beyond
    costs = capability({"3+4": np.zeros(200), "3-4": noisy, "3+1": np.full(200, 0.002), "3-1": np.zeros(200)})
    weighed = weigh([dear, cheap, unknown], y, unchanged="none", capability=costs)
    assert weighed.table["capability_loss"].tolist()[:2] == pytest.approx([noisy.mean(), 0.002])
    assert weighed.table["capability_loss_high"].iloc[0] > 0.03 > noisy.mean()
    assert weighed.table["qualifies"].tolist() == [False, True, False], "where it is known of some, the others wait"
    assert choose(weighed).index == 1
    found = choose(weigh([dear], y, unchanged="none", capability=costs))
    assert (found.worked, found.why.startswith("its capability loss may reach 0.0")) == (False, True)


def test_questions_too_few_to_show_a_small_loss_are_judged_by_the_loss_itself() -> None:
    """Of 40 questions none could: their upper end is .06 where not one answer changes."""
    dear, cheap = both(3, 4), both(3, 1)
    y = scores(moved([(dear, 3.0, 3.0), (cheap, 0.8, 0.8)]))
    hair = np.linspace(-0.001, 0.001, 40)
    few = {"3+4": 0.04 + hair, "3-4": hair, "3+1": 0.01 + hair, "3-1": hair}
    weighed = weigh([dear, cheap], y, unchanged="none", capability=capability(few))
    assert (weighed.table["capability_loss_high"] > 0.03).all() and (weighed.table["capability_items"] == 40).all()
    assert weighed.table["qualifies"].tolist() == [False, True]
    found = choose(weigh([dear], y, unchanged="none", capability=capability(few)))
    assert found.why == "its capability loss is 0.040, more than 0.03"


def test_too_few_items_and_a_wrong_way_do_not_work() -> None:
    one = both(3, 1)
    y = {key: values[:19] for key, values in moved([(one, 1.0, 1.0)]).items()}
    assert (
        choose(weigh([one], scores(y), unchanged="none")).why == "19 items are too few for an interval; 20 are needed"
    )
    wrong = choose(weigh([one], scores(moved([(one, -1.0, -1.0)])), unchanged="none"))
    assert (wrong.worked, wrong.why) == (False, "it moves the behavior the wrong way")


def test_an_effect_that_is_told_apart_from_0_but_that_nobody_feels_has_not_worked() -> None:
    one = both(3, 1)
    y = moved([(one, 0.05, 0.05)])
    y = {key: 0.1 + (values - 0.1 - NOISE * ("+" in key) + NOISE * ("-" in key)) for key, values in y.items()}
    y = {key: values + 0.01 * NOISE * ("+" in key) for key, values in y.items()}
    weighed = weigh([one], scores(y), unchanged="none")
    assert 0 < weighed.table["effect_low"].iloc[0] < weighed.table["effect_high"].iloc[0] < 0.1
    assert choose(weighed).why == "it stays within 0.1 log-odds of 0"


def test_a_candidate_of_one_direction_is_judged_by_that_alone() -> None:
    one = Candidate(group="wording 1", cells={-1: "down"}, settings={"text": "You refuse."})
    y = {"none": np.full(N, 0.1), "down": 0.1 - 0.7 + NOISE}
    weighed = weigh([one], scores(y), unchanged="none")
    assert weighed.table["effect"].iloc[0] == pytest.approx(0.7)
    assert np.isnan(weighed.table["shift_up"].iloc[0])


def test_a_cell_without_scores_is_a_mistake() -> None:
    one = both(3, 1)
    with pytest.raises(ValueError, match="no scores of 3"):
        weigh([one], scores({"none": np.zeros(N)}), unchanged="none")


@pytest.mark.parametrize("alike", [0.0, 0.9], ids=["unrelated", "neighbors"])
def test_the_best_of_many_that_do_nothing_is_called_something_one_time_in_twenty(alike: float) -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        shared = rng.normal(0, 1, (N, 1))
        values = alike**0.5 * shared + (1 - alike) ** 0.5 * rng.normal(0, 1, (N, 50))
        hits += bool(chance(values, np.arange(N), how=Resampling(seed=0, draws=199)).min() <= 0.05)
    assert 8 <= hits <= 34, "400 searches, 20 expected; the interval is four standard errors wide"


def test_one_that_does_something_is_seen_among_fifty() -> None:
    values = np.random.default_rng(4).normal(0, 1, (N, 50))
    values[:, 7] += 1.0
    p = chance(values, np.arange(N))
    assert p[7] < 0.01
    assert np.delete(p, 7).min() > 0.05


def tables(lines: list[tuple[dict, float, tuple[float, float]]]) -> Method:
    """Shift lines of cells with their option mass and interval."""
    made = frame([one for one, _, _ in lines]).reset_index()
    made["option_mass"] = [mass for _, mass, _ in lines]
    made["shift_low"], made["shift_high"] = zip(*(ends for _, _, ends in lines), strict=True)
    made["n"] = N
    nothing = pd.DataFrame()
    plain = made[made["multiplier"] == 0]
    return Method(
        vector="caa", name="caa", shifts=made[made["vector"] == "caa"], stacking=nothing, reliability=nothing,
        bases=plain[plain["base"] != "none"], unsteered=plain,
    )  # fmt: skip


def test_steered_too_far_names_the_dose_and_both_masses() -> None:
    nan = (np.nan, np.nan)
    lines = [
        (cell(), 0.77, nan),
        (cell(vector="caa", multiplier=1.0), 0.75, (0.2, 0.4)),
        (cell(vector="caa", multiplier=4.0), 0.60, (0.6, 0.9)),
        (cell(vector="caa", multiplier=8.0), 0.13, (0.2, 0.9)),
        (cell(vector="random", multiplier=8.0), 0.05, (0.0, 0.1)),
    ]
    found = steered_too_far(tables(lines), RunFacts())
    assert found is not None
    assert found.count == 2
    assert found.text.startswith(
        "Steered too far: caa on the unchanged model at +8 (layer 3) leaves 0.13 of the option mass, which is"
    )
    assert steered_too_far(tables(lines[:2]), RunFacts()) is None


def test_not_felt_needs_every_interval_within_a_tenth() -> None:
    nan = (np.nan, np.nan)
    dull = [
        (cell(), 0.77, nan),
        (cell(vector="caa", multiplier=-1.0), 0.75, (-0.05, 0.01)),
        (cell(vector="caa", multiplier=1.0), 0.75, (-0.02, 0.09)),
        (cell(vector="random", multiplier=1.0), 0.75, (-0.5, 0.5)),
    ]
    found = not_felt(tables(dull), RunFacts())
    assert found is not None
    assert "caa moves the log-odds by less than 0.1 at every dose from -1 to +1 (layer 3, n 40)" in found.text
    wide = [*dull, (cell(vector="caa", multiplier=2.0), 0.75, (0.05, 0.15))]
    assert not_felt(tables(wide), RunFacts()) is None
    assert not_felt(tables([(cell(), 0.77, nan), (cell(vector="caa", multiplier=1.0), 0.75, nan)]), RunFacts()) is None
