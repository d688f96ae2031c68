"""Placebo band, reliability, fair choices and the automatic warnings, each on data where the answer is known."""

from __future__ import annotations

import analysis_frames as make
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from caa_bench import CAA
from caa_bench.analysis.cells import cell_table, effect_by_half, shift_table
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.fairness import choose_dose, effect_at_equal_loss, matched_dose
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.items import item_scores, letter_table
from caa_bench.analysis.placebos import placebo_band, placebo_draws, placebo_ranks, within_placebo
from caa_bench.analysis.reliability import item_reliability, rank_correlations, reliability_table
from caa_bench.analysis.stacking import stacking_table
from caa_bench.analysis.warn import RunFacts, Tables
from caa_bench.analysis.warn_rules import find_warnings
from caa_bench.behaviors.behavior import load_behavior

N = 40
RNG = np.random.default_rng(5)
LEVEL, SLOPE = RNG.normal(0, 0.8, N), np.abs(RNG.normal(1.2, 0.3, N)) + 0.2


def curve(
    slopes: dict[str, np.ndarray], *, multipliers: tuple[float, ...] = (-1.0, 1.0), base_shift: float = 1.0
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Dose curves of several vectors on the unchanged model and one base, linear in the multiplier for each item."""
    values, lines = {}, []
    for base, shift in (("none", 0.0), ("system_prompt_positive", base_shift)):
        lines.append(make.cell(base))
        values[lines[-1]["cell"]] = LEVEL + shift
        for vector, slope in slopes.items():
            for multiplier in multipliers:
                lines.append(make.cell(base, vector=vector, multiplier=multiplier))
                values[lines[-1]["cell"]] = LEVEL + shift + slope * multiplier
    return values, make.frame(lines)


PLACEBOS = {"random": "caa", "shuffled": "caa"}


def tables(scores: pd.DataFrame, cells: pd.DataFrame, *, placebos: dict[str, str] = PLACEBOS) -> Tables:
    groups, how = grouped(scores, cells), Resampling(draws=499)
    return Tables(
        cells=cell_table(groups, how=how),
        stacking=stacking_table(groups, how=how, placebos=placebos),
        shifts=shift_table(groups, how=how),
        reliability=reliability_table(groups, how=how),
        placebos=placebo_draws(groups, placebos=placebos),
    )


def codes(scores: pd.DataFrame, cells: pd.DataFrame, **facts: object) -> dict[str, str]:
    found = find_warnings(tables(scores, cells), {"refusal": RunFacts(**facts)}, placebos=PLACEBOS)
    return {warning.code: warning.severity for warning in found}


VECTORS = {"caa": SLOPE, "random": 0.1 * SLOPE, "shuffled": -0.2 * SLOPE}


def test_the_placebo_band_is_the_range_of_the_placebos():
    values, cells = curve(VECTORS)
    band = placebo_band(placebo_draws(grouped(make.scores(values), cells), placebos=PLACEBOS))
    up = band[(band["base"] == "none") & (band["multiplier"] == 1.0)].iloc[0]
    assert (up["low"], up["high"]) == pytest.approx((-0.2 * SLOPE.mean(), 0.1 * SLOPE.mean()))
    assert up["placebos"] == 2 and len(band) == 4
    assert up["p_low"] < up["p_high"]


def test_an_effect_no_larger_than_a_placebos_is_within_the_band():
    values, cells = curve({**VECTORS, "caa": 0.05 * SLOPE})
    groups = grouped(make.scores(values), cells)
    shifts, draws = shift_table(groups), placebo_draws(groups, placebos=PLACEBOS)
    inside = within_placebo(shifts, draws)
    assert inside[shifts["vector"] == "caa"].tolist() == [True] * 4
    assert inside[shifts["vector"] != "caa"].isna().all()
    strong = shift_table(grouped(make.scores(curve(VECTORS)[0]), curve(VECTORS)[1]))
    assert within_placebo(strong, draws)[strong["vector"] == "caa"].isna().all(), "one draw of a kind settles nothing"
    assert within_placebo(strong, draws[:0]).isna().all()


def drawn(effects: list[float], own: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shifts and draws of a vector whose effect is `own`, beside a placebo with one draw an effect."""
    lines = [make.cell(), make.cell(vector="caa", multiplier=1.0)]
    lines += [make.cell(vector="shuffled", multiplier=1.0, fit=str(n)) for n, _ in enumerate(effects, 1)]
    values = {line["cell"]: LEVEL + gain for line, gain in zip(lines, [0.0, own, *effects], strict=True)}
    groups = grouped(make.scores(values), make.frame(lines))
    return shift_table(groups), placebo_draws(groups, placebos={"shuffled": "caa"})


def test_the_rank_of_a_vector_is_exact():
    """19 draws of .05, -.1, .15 ...: the p-value counts sizes on either side, and ties as larger."""
    effects = [0.05 * n * (-1) ** n for n in range(1, 20)]
    found = {}
    for own in (-0.96, 0.95, -0.90, 0.02):
        shifts, draws = drawn(effects, own)
        (rank,) = placebo_ranks(shifts, draws).to_dict("records")
        found[own] = (rank["larger"], rank["p_value"], rank["beyond"], rank["within"])
        assert rank["draws"] == 19 and rank["largest"] == pytest.approx(0.95) and rank["shift"] == pytest.approx(own)
    assert found == {
        -0.96: (0, 0.05, True, False),
        0.95: (1, 0.10, False, True),
        -0.90: (2, 0.15, False, True),
        0.02: (19, 1.0, False, True),
    }
    assert draws["draw"].tolist() == [str(n) for n in range(1, 20)]
    assert draws["shift"].tolist() == pytest.approx(effects)


@pytest.mark.slow
def test_a_vector_that_means_nothing_is_beyond_its_placebos_in_one_run_of_twenty():
    """Exchangeable by construction: one more draw, larger than all 19 of them with probability .05."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(400):
        effects = rng.standard_t(3, size=20)
        shifts, draws = drawn(list(effects[1:]), effects[0])
        hits += bool(placebo_ranks(shifts, draws)["beyond"].iloc[0])
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= hits <= high


def test_reliability_finds_the_slopes_and_the_items_steered_backwards():
    slope = SLOPE.copy()
    slope[:12] *= -0.5
    values, cells = curve({"caa": slope}, multipliers=(-1.0, -0.5, 0.5, 1.0))
    scores = make.scores(values)
    table = reliability_table(grouped(scores, cells)).set_index("base")
    found = table.loc["none"]
    assert found["slope"] == pytest.approx(slope.mean()) and found["slope_sd"] == pytest.approx(slope.std(ddof=1))
    assert found["anti_steerable_share"] == 12 / N and found["multipliers"] == 5
    assert found["rank_correlation"] == pytest.approx((N - 24) / N)
    assert found["slope_low"] < slope.mean() < found["slope_high"]
    items = item_reliability(grouped(scores, cells))
    assert items[items["base"] == "none"]["slope"].to_numpy() == pytest.approx(slope)


def test_rank_correlation_agrees_with_scipy():
    y, x = RNG.normal(size=(6, 5)).round(1), np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert rank_correlations(y, x) == pytest.approx([stats.spearmanr(row, x).statistic for row in y])
    assert np.isnan(rank_correlations(np.ones((1, 5)), x)[0])


def selection(lines: list[tuple[float, float, float, float, float]]) -> pd.DataFrame:
    columns = ["layer", "multiplier", "shift", "option_mass", "capability_loss_high"]
    return pd.DataFrame(lines, columns=columns).assign(split="selection")


TRIED = [
    (1.0, 1.0, 0.4, 0.99, 0.0),
    (2.0, 1.0, 1.1, 0.99, 0.01),
    (3.0, 1.0, 1.3, 0.99, 0.04),
    (2.0, 2.0, 2.5, 0.85, 0.02),
    (3.0, 0.5, 0.9, 0.95, 0.00),
    (2.0, -1.0, -1.4, 0.99, 0.0),
]


def test_the_chosen_dose_is_the_largest_that_keeps_mass_and_capability():
    choice = choose_dose(selection(TRIED), sign=1)
    assert choice.key == {"layer": 2.0, "multiplier": 1.0}
    assert (choice.shift, choice.tries, choice.eligible) == (1.1, 6, 3)
    assert choice.at_edge == ()
    down = choose_dose(selection(TRIED), sign=-1)
    assert down.key == {"layer": 2.0, "multiplier": -1.0} and down.shift == 1.4


def test_a_choice_at_the_end_of_its_grid_says_so():
    lines = [(layer, dose, layer + dose, 1.0, 0.0) for layer in (1.0, 2.0, 3.0) for dose in (0.5, 1.0, 2.0)]
    assert choose_dose(selection(lines), sign=1).at_edge == ("layer", "multiplier")


def test_no_eligible_dose_is_no_choice_and_test_lines_are_refused():
    assert choose_dose(selection([(1.0, 1.0, -0.2, 0.99, 0.0), (1.0, 2.0, 2.0, 0.5, 0.0)]), sign=1) is None
    with pytest.raises(ValueError, match="selection split"):
        choose_dose(selection(TRIED).assign(split="test"), sign=1)
    with pytest.raises(ValueError, match="selection split"):
        matched_dose(pd.DataFrame({"split": ["test"], "base_dose": [1.0], "total": [1.0]}), target=1.0)


def test_the_matched_dose_is_the_nearest_in_effect_and_says_how_far_off():
    doses = pd.DataFrame({"base_dose": [1.0, 0.25, 0.5], "total": [4.0, 0.9, 2.2], "split": "selection"})
    found = matched_dose(doses, target=1.5)
    assert (found.base_dose, found.total, found.tries) == (0.25, 0.9, 3)
    assert found.gap == pytest.approx(-0.6)
    assert matched_dose(doses, target=9.0).gap == pytest.approx(-5.0)
    assert matched_dose(doses.assign(total=np.nan), target=1.0) is None


def test_effects_are_compared_at_equal_capability_loss():
    """By the upper end: a loss of 0 that may be .06 is within no budget, nor is one without an interval."""
    lines = [
        ("caa", 1.0, 0.0, 0.005), ("caa", 2.0, 0.03, 0.04), ("caa", 9.0, 0.0, 0.06), ("lora", 3.0, 0.01, 0.02),
        ("lora", 5.0, 0.1, 0.2), ("lora", 7.0, 0.0, np.nan),
    ]  # fmt: skip
    columns = ["arm", "effect", "capability_loss", "capability_loss_high"]
    table = effect_at_equal_loss(pd.DataFrame(lines, columns=columns), budgets=(0.01, 0.05))
    assert table.set_index(["arm", "budget"])["effect"].to_dict() == pytest.approx(
        {("caa", 0.01): 1.0, ("caa", 0.05): 2.0, ("lora", 0.01): np.nan, ("lora", 0.05): 3.0}, nan_ok=True
    )


def test_the_effect_is_split_by_the_longer_option():
    slope = np.where(np.arange(N) < 25, 2.0, 0.5)
    values, cells = curve({"caa": slope})
    table = effect_by_half(grouped(make.scores(values), cells), longer=[f"test/{index:04d}" for index in range(25)])
    alone = table[(table["base"] == "none") & (table["multiplier"] == 1.0)].set_index("half")
    assert alone["shift"].to_dict() == pytest.approx({"longer": 2.0, "shorter": 0.5})
    assert alone["n"].to_dict() == {"longer": 25, "shorter": 15}


def test_a_sound_run_warns_of_nothing_but_its_single_seed():
    values, cells = curve(VECTORS)
    facts = {"train_longer_share": 0.5, "test_opened": 1}
    assert codes(item_scores(make.rows(values)), cells, **facts) == {"one_seed": "note"}


def test_the_single_fit_is_warned_of_with_what_another_seed_does_not_do():
    """Which is true: with all pairs, another seed gives the very pairs that the vector is fitted on."""
    values, cells = curve(VECTORS)
    (found,) = find_warnings(tables(make.scores(values), cells), {"refusal": RunFacts()}, placebos=PLACEBOS)
    assert found.text.endswith("no max_pairs and no split, every fit and every point stays the same.")
    pairs = {
        (seed, few): load_behavior("refusal", seed=seed, max_pairs=few).pairs() for seed in (0, 1) for few in (None, 40)
    }
    assert pairs[0, None].key == pairs[1, None].key and pairs[0, 40].key != pairs[1, 40].key
    assert CAA().another_fit(2, made={}).settings() != CAA().settings()


@pytest.mark.parametrize(
    ("facts", "code", "severity"),
    [
        ({"train_longer_share": 0.73}, "longer_option", "caution"),
        ({"train_longer_share": 0.14}, "longer_option", "caution"),
        ({"choice_at_edge": ("layer",)}, "choice_at_edge", "note"),
        ({"test_opened": 2}, "reopened_test", "severe"),
        ({"test_opened": 1, "test_opening": 3}, "reopened_test", "caution"),
    ],
)
def test_a_fact_that_matters_is_said(facts, code, severity):
    values, cells = curve(VECTORS)
    assert codes(make.scores(values), cells, **facts) == {code: severity, "one_seed": "note"}


PAIRS = {"layer": 3.0, "n": 80, "agreement": 0.1, "separability": 0.5}


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.05, 0.15, 0.1, 0.4), {"pairs_hardly_agree": "caution", "sides_overlap": "note"}),
        ((-0.01, 0.15, 0.1, 0.6), {"pairs_hardly_agree": "severe"}),
        ((0.05, 0.21, 0.1, 0.6), {}),
        ((np.nan,) * 4, {}),
    ],
)
def test_pairs_are_judged_by_the_upper_ends_of_their_intervals(ends, expected):
    """Below .2 and below .5 for sure; without an interval nothing is said."""
    names = ("agreement_low", "agreement_high", "separability_low", "separability_high")
    found = codes(make.scores(curve(VECTORS)[0]), curve(VECTORS)[1], vector=PAIRS | dict(zip(names, ends, strict=True)))
    assert found == {**expected, "one_seed": "note"}


def test_a_second_method_is_warned_of_as_the_first_would_be():
    """The same weak, backward and noisy scores under both names: the same warnings, names apart."""
    slope = RNG.normal(0.25, 1.0, N)
    values, cells = curve({**VECTORS, "caa": slope}, multipliers=(-1.0, 1.0, 2.0), base_shift=0.0)
    turned = cells[(cells["vector"] == "caa") & (cells["multiplier"] == 2.0)].index
    values.update({cell: values[cell] - 3.0 for cell in turned})
    (on_top,) = cells[(cells["vector"] == "caa") & (cells["multiplier"] == 1.0) & (cells["base"] != "none")].index
    values[on_top] = values[on_top] + RNG.normal(0, 3.0, N)
    place = {"base": "none", "base_dose": 1.0, "layer": 3.0, "multiplier": 2.0, "shift_low": 1.0, "shift_high": 2.0}
    said = {}
    for name in ("caa", "repe"):
        named, placebos = cells.assign(vector=cells["vector"].replace("caa", name)), dict.fromkeys(PLACEBOS, name)
        facts = RunFacts(open_ended=pd.DataFrame([{**place, "vector": name}]))
        made = tables(make.scores(values), named, placebos=placebos)
        found = find_warnings(made, {"refusal": facts}, placebos=placebos, shown=str.upper)
        said[name] = [{**vars(one), "text": one.text.replace(name.upper(), "V")} for one in found]
    assert said["caa"] == said["repe"]
    expected = {"not_monotone", "anti_steerable", "open_ended_disagrees", "underpowered"}
    assert expected <= {one["code"] for one in said["caa"]}


def test_two_methods_are_each_asked():
    """One of two vectors is no better than its own placebos; the placebos of the other do not count for it."""
    values, cells = curve({"caa": SLOPE, "repe": 0.05 * SLOPE, "random": 0.1 * SLOPE})
    for original, told in (("repe", ["REPE"]), ("caa", [])):
        placebos = {"random": original}
        made = tables(make.scores(values), cells, placebos=placebos)
        found = find_warnings(made, {}, placebos=placebos, shown=str.upper)
        assert [one.text.split()[0] for one in found if one.code == "within_placebos"] == told
        assert (made.stacking.loc[made.stacking["vector"] != "random", "family"] == "primary").all()


@pytest.mark.parametrize(
    ("bias", "orders", "severity"), [(4.0, 1, "severe"), (0.8, 1, "caution"), (0.2, 1, None), (4.0, 2, None)]
)
def test_answers_that_follow_the_letter_are_told_of_where_one_order_cannot_cancel_them(bias, orders, severity):
    """Items keyed A and B in turn, asked in the given order alone or in both (then `letter_locked` says it)."""
    key = "paper"
    rows = make.rows({key: np.random.default_rng(3).normal(0, 0.3, N)}, bias=bias)
    scores = item_scores(rows[rows["order"] < orders])
    made = tables(scores, make.frame([{**make.cell(), "cell": key}]))
    found = {one.code: one for one in find_warnings(made, {"refusal": RunFacts(letters=letter_table(scores))})}
    assert (found["letter_gap"].severity if "letter_gap" in found else None) == severity
    assert ("letter_locked" in found) == (orders == 2)


def test_low_mass_and_letter_answers_are_said_with_the_worst_cell():
    values, cells = curve(VECTORS)
    rows = make.rows(values, bias=4.0, mass=0.3)
    found = {w.code: w for w in find_warnings(tables(item_scores(rows), cells), {}, placebos=PLACEBOS)}
    assert found["option_mass"].severity == "severe" and found["option_mass"].count == len(cells)
    assert "100% of the items" in found["option_mass"].text
    assert found["letter_locked"].severity == "severe" and found["letter_bias"].severity == "caution"
    assert next(iter(found.values())).severity == "severe"


def test_an_item_in_error_is_said():
    values, cells = curve(VECTORS)
    rows = make.rows(values)
    rows.loc[3, "logit_0"] = np.nan
    assert codes(item_scores(rows), cells)["item_errors"] == "caution"


def test_a_vector_no_better_than_a_placebo_is_severe():
    values, cells = curve({**VECTORS, "caa": 0.05 * SLOPE})
    assert codes(make.scores(values), cells)["within_placebos"] == "severe"


def test_a_dose_curve_that_turns_back_is_said_and_noise_is_not():
    values, cells = curve(VECTORS, multipliers=(-1.0, 1.0, 2.0))
    assert "not_monotone" not in codes(make.scores(values), cells)
    double = cells[(cells["vector"] == "caa") & (cells["multiplier"] == 2.0) & (cells["base"] == "none")].index[0]
    values[double] = LEVEL + 0.3 * SLOPE
    assert codes(make.scores(values), cells)["not_monotone"] == "caution"


def test_backward_items_idle_bases_and_low_power_are_said():
    slope = RNG.normal(0.25, 1.0, N)
    values, cells = curve({**VECTORS, "caa": slope}, base_shift=0.0)
    on_top = cells[(cells["vector"] == "caa") & (cells["multiplier"] == 1.0) & (cells["base"] != "none")].index[0]
    values[on_top] = values[on_top] + RNG.normal(0, 3.0, N)
    found = codes(make.scores(values), cells)
    assert found["anti_steerable"] == "severe" and found["idle_base"] == found["underpowered"] == "caution"


def test_an_open_ended_shift_in_the_other_direction_is_severe():
    values, cells = curve(VECTORS)
    place = {"vector": "caa", "base": "none", "base_dose": 1.0, "layer": 3.0, "multiplier": 1.0}
    against = pd.DataFrame([{**place, "shift_low": -2.0, "shift_high": -0.5}])
    agrees = pd.DataFrame([{**place, "shift_low": 0.5, "shift_high": 2.0}])
    assert codes(make.scores(values), cells, open_ended=against)["open_ended_disagrees"] == "severe"
    assert "open_ended_disagrees" not in codes(make.scores(values), cells, open_ended=agrees)
