"""Cells and stacking lines: definitions, families, fits, gates, order independence. docs/numbers.md 4-14."""

from __future__ import annotations

import analysis_frames as make
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from caa_bench.analysis import cells as cells_module
from caa_bench.analysis.cells import cell_table, shift_table
from caa_bench.analysis.effects import open_effects
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.items import item_scores
from caa_bench.analysis.reliability import reliability_table
from caa_bench.analysis.stacking import COLUMNS, fit_levels, one_family, stacking_table

PLACEBOS = {"random": "caa"}
LINE_KEYS = ["base", "vector", "layer", "multiplier"]
RNG = np.random.default_rng(11)
NONE, ALONE, BASE = RNG.normal(-0.5, 1, 60), RNG.normal(1.2, 0.8, 60), RNG.normal(0.8, 1, 60)
ON_TOP = 0.5 * ALONE + RNG.normal(0, 0.3, 60)


def stacked(scores: pd.DataFrame, cells: pd.DataFrame, **more: object) -> pd.DataFrame:
    """The stacking table, CAA called by its name."""
    named = {"placebos": PLACEBOS, "shown": lambda vector: vector.replace("caa", "CAA")}
    return stacking_table(grouped(scores, cells), **{**named, **more})


def line(none=NONE, alone=ALONE, base=BASE, on_top=ON_TOP, *, multiplier=1.0) -> pd.Series:
    values, cells = make.stack(none, alone, base, on_top, multiplier=multiplier)
    table = stacked(make.scores(values), cells)
    assert len(table) == 1
    return table.iloc[0]


@pytest.mark.parametrize("multiplier", [1.0, -1.0])
def test_effects_are_signed_means_of_item_differences(multiplier):
    found = line(multiplier=multiplier)
    assert found["alone"] == pytest.approx(ALONE.mean())
    assert found["on_top"] == pytest.approx(ON_TOP.mean())
    assert found["interaction"] == pytest.approx((ON_TOP - ALONE).mean())
    assert found["base_alone"] == pytest.approx((BASE - NONE).mean())  # not signed
    assert found["retention"] == pytest.approx(ON_TOP.mean() / ALONE.mean())
    sign = np.sign(multiplier)
    assert found["alone_p"] == pytest.approx(sign * (expit(NONE + sign * ALONE) - expit(NONE)).mean())
    assert found["p_before"] == pytest.approx(expit(BASE).mean())
    assert found["p_after"] == pytest.approx(expit(BASE + sign * ON_TOP).mean())
    assert found["room"] == pytest.approx(1 - found["p_before"] if sign > 0 else found["p_before"])
    for name in ("alone", "on_top", "interaction", "base_alone", "retention", "alone_p", "interaction_p"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_the_detectable_effect_is_2_8_standard_errors_of_the_interaction():
    d = ON_TOP - ALONE
    assert line()["detectable_effect"] == pytest.approx(2.8016 * d.std(ddof=1) / np.sqrt(60), rel=1e-3)


def test_an_item_in_error_in_one_cell_leaves_all_effects_and_is_counted():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    rows = make.rows(values)
    both = list(values)[3]
    rows.loc[(rows["cell"] == both) & (rows["item"] == "test/0004") & (rows["order"] == 1), "logit_0"] = np.nan
    scores = item_scores(rows)
    found, kept = stacked(scores, cells).iloc[0], np.arange(60) != 4
    assert found["n"] == 59
    assert found["alone"] == pytest.approx(ALONE[kept].mean()) and found["interaction"] == pytest.approx(
        (ON_TOP - ALONE)[kept].mean()
    )
    table = cell_table(grouped(scores, cells)).set_index("cell")
    assert table.loc[both, ["n", "n_items", "errors"]].tolist() == [59, 60, 1]
    assert table["errors"].sum() == 1


def test_retention_is_not_given_where_alone_does_nothing():
    found = line(alone=RNG.normal(0.0, 0.4, 60))
    assert np.isnan(found[["retention", "retention_low", "retention_high"]].astype(float)).all()
    assert found["verdict"] in ("CAA does nothing alone", "adds only here")


def test_a_missing_cell_gives_no_effect_and_no_verdict_from_nothing():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    alone = list(values)[1]
    found = stacked(make.scores({k: v for k, v in values.items() if k != alone}), cells.drop(alone)).iloc[0]
    assert np.isnan(found["alone"]) and np.isnan(found["interaction"]) and np.isnan(found["p_value"])
    assert found["on_top"] == pytest.approx(ON_TOP.mean())
    assert found["verdict"] == "no verdict (CAA alone was not run)"


def test_equal_items_give_the_point_and_no_p_value():
    ones = np.ones(30)
    found = line(none=0 * ones, alone=ones, base=ones, on_top=ones)
    assert found["alone_low"] == found["alone_high"] == found["retention_low"] == found["retention_high"] == 1
    assert np.isnan(found["p_value"]) and found["verdict"] == "adds fully"


def in_words(on_top: np.ndarray, *, multiplier: float) -> pd.DataFrame:
    """`open_effects` of scores that start at .5 and move by `on_top` in the direction of the dose."""
    still = np.full(len(on_top), 0.5)
    values, cells = make.stack(still, on_top, still, on_top, multiplier=multiplier)
    scores = make.scores(values).rename(columns={"log_odds": "score"})
    return open_effects(grouped(scores, cells.assign(evaluator="open_ended")))


@pytest.mark.parametrize("multiplier", [1.0, -1.0])
@pytest.mark.parametrize(("questions", "move", "told"), [(40, -0.2, True), (40, 0.2, False), (19, -0.2, False)])
def test_the_effect_in_words_stands_in_the_table_and_in_the_verdict(multiplier, questions, move, told):
    """The same dose, its own questions; below 20 of them there is no interval and so nothing to say."""
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP, multiplier=multiplier)
    effects = in_words(move + RNG.normal(0, 0.05, questions), multiplier=multiplier)
    found = stacked(make.scores(values), cells, in_words=effects).iloc[0]
    assert found["open_ended_on_top"] == pytest.approx(move, abs=0.05)
    assert found["open_ended_n"] == questions
    assert np.isnan(found["open_ended_on_top_low"]) == (questions < 20)
    assert (found["tags"] == "opposite in words") == told
    assert found["verdict_text"].endswith("; opposite in words") == told
    plain = line(multiplier=multiplier)
    pd.testing.assert_series_equal(found[plain.index.difference(["tags", "verdict_text"])].sort_index(),
        plain.drop(["tags", "verdict_text"]).sort_index())  # fmt: skip


@pytest.mark.parametrize("n", [1, 19])
def test_few_items_give_points_but_no_interval_and_no_verdict(n):
    found = line(NONE[:n], ALONE[:n], BASE[:n], ON_TOP[:n])
    assert np.isnan(found["alone_low"]) and np.isnan(found["p_value"])
    assert found["alone"] == pytest.approx(ALONE[:n].mean())
    assert found["verdict"] == "no verdict (n < 20)"


def test_one_cluster_gives_no_verdict():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    found = stacked(make.scores(values, clusters=["stem"] * 60), cells).iloc[0]
    assert found["n_clusters"] == 1 and np.isnan(found["interaction_low"])
    assert found["verdict"] == "no verdict (1 clusters < 10)"


def test_tables_do_not_depend_on_row_or_cell_order():
    values, cells = make.simulated_stacks(0.7, n=40, draws=6, rng=np.random.default_rng(2))
    clusters = [f"stem{index // 2}" for index in range(40)]
    rows = make.rows(values, clusters=clusters)
    tables = []
    for frame, order in ((rows, cells), (rows.sample(frac=1, random_state=1), cells.sample(frac=1, random_state=2))):
        scores = item_scores(frame)
        tables.append((cell_table(grouped(scores, order)), stacked(scores, order), shift_table(grouped(scores, order))))
    for straight, shuffled in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(straight, shuffled, check_exact=True)


def test_a_cell_s_numbers_do_not_depend_on_what_else_was_run():
    values, cells = make.simulated_stacks(0.7, n=40, draws=3, rng=np.random.default_rng(2))
    some = cells.iloc[:4]
    whole = stacked(make.scores(values), cells)
    part = stacked(make.scores({key: values[key] for key in some.index}), some)
    same = [c for c in COLUMNS if c not in ("q_value",)]
    pd.testing.assert_frame_equal(whole.iloc[:1][same], part[same], check_exact=True)


def doses(multipliers: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0), layers: tuple[float, ...] = (3.0,)):
    lines, values = [], {}
    for base, shift in (("none", 0.0), ("system_prompt_positive", 1.0), ("lora_sft_negative", -1.0)):
        lines.append(make.cell(base))
        values[lines[-1]["cell"]] = NONE + shift
        for vector, slope in (("caa", 1.0), ("random", 0.1)):
            for layer in layers:
                for multiplier in multipliers:
                    lines.append(make.cell(base, vector=vector, multiplier=multiplier, layer=layer))
                    values[lines[-1]["cell"]] = NONE + shift + slope * multiplier * ALONE + RNG.normal(0, 0.2, 60)
    return make.scores(values), make.frame(lines)


def test_the_primary_family_is_every_method_at_the_doses_that_needed_no_choice():
    table = stacked(*doses())
    primary = table[table["family"] == "primary"]
    assert set(primary["base"]) == {"system_prompt_positive", "lora_sft_negative"}
    assert set(primary["vector"]) == {"caa"} and set(primary["multiplier"]) == {1.0, -1.0} and len(primary) == 4
    for _, family in table.groupby("family"):
        expected = family["p_value"].rank(method="max")  # Benjamini-Hochberg by its definition
        raw = family["p_value"] * len(family) / expected
        ordered = raw[family["p_value"].sort_values(ascending=False).index].cummin()
        assert family["q_value"].to_numpy() == pytest.approx(ordered[family.index].to_numpy())


def test_a_second_method_on_the_same_scores_gets_the_same_lines():
    """Under another name, alone and beside the first: equal but for the name, and one family for both."""
    scores, cells = doses()
    renamed = cells.assign(vector=cells["vector"].replace("caa", "repe"))
    first = stacked(scores, cells, shown=str.upper).sort_values(LINE_KEYS, ignore_index=True)
    second = stacked(scores, renamed, placebos={"random": "repe"}, shown=str.upper)
    second = second.assign(vector=second["vector"].replace("repe", "caa")).sort_values(LINE_KEYS, ignore_index=True)
    for column in ("verdict", "verdict_text"):
        assert first[column].str.contains("CAA|RANDOM").any(), "so that there is a name to compare"
        second[column] = second[column].str.replace("REPE", "CAA")
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    twice = cells[cells["vector"] == "caa"].assign(vector="repe").rename(index=lambda key: f"{key}~repe")
    copies = scores[scores["cell"].isin(cells.index[cells["vector"] == "caa"])]
    copies = copies.assign(cell=copies["cell"] + "~repe")
    both = stacked(pd.concat([scores, copies]), pd.concat([cells, twice]), shown=str.upper)
    assert both[both["family"] == "primary"].groupby("vector").size().to_dict() == {"caa": 4, "repe": 4}
    by_vector = {vector: part.sort_values(LINE_KEYS) for vector, part in both.groupby("vector")}
    assert by_vector["repe"]["q_value"].tolist() == by_vector["caa"]["q_value"].tolist()


def test_without_a_selection_only_doses_that_needed_no_choice_are_primary():
    one_layer, two_layers = stacked(*doses()), stacked(*doses(layers=(2.0, 3.0)))
    assert set(one_layer[one_layer["family"] == "primary"]["multiplier"]) == {1.0, -1.0}
    assert (two_layers["family"] == "exploratory").all()


def test_a_placebo_line_names_the_placebo():
    table = stacked(*doses())
    random = table[(table["vector"] == "random") & (table["multiplier"] == 1.0)]
    assert (random["verdict"] == "CAA does nothing alone").all()
    assert random["verdict_text"].str.startswith("random does nothing alone").all()


def fitted(per_fit_on_top: list[np.ndarray], *, shared_alone: bool = True) -> pd.DataFrame:
    """A LoRA of several seeds with one shared vector: (none, m) and (none, 0) serve all fits."""
    values, lines = {}, [make.cell(), make.cell(vector="caa", multiplier=1.0)]
    values[lines[0]["cell"]], values[lines[1]["cell"]] = NONE, NONE + ALONE
    for fit, on_top in enumerate(per_fit_on_top):
        for steer, y in (({}, BASE), ({"vector": "caa", "multiplier": 1.0}, BASE + on_top)):
            lines.append(make.cell("lora_sft_positive", **steer, fit=f"seed{fit}"))
            values[lines[-1]["cell"]] = y + 0.1 * fit
    return make.scores(values), make.frame([{"fit": "", **entry} for entry in lines])


def test_several_fits_are_averaged_per_item_and_widen_the_interval():
    scores, cells = fitted([ON_TOP - 0.4, ON_TOP, ON_TOP + 0.4])
    found, single = stacked(scores, cells).iloc[0], line()
    assert found["n_fits"] == 3 and found["n"] == 60
    assert found["on_top"] == pytest.approx(ON_TOP.mean())
    assert found["alone_high"] - found["alone_low"] == pytest.approx(
        single["alone_high"] - single["alone_low"], rel=0.1
    )
    assert found["on_top_high"] - found["on_top_low"] > 3 * (single["on_top_high"] - single["on_top_low"])
    assert "one seed" not in found["caveats"] and "one seed: fit noise unknown" in single["caveats"]
    dots = fit_levels(grouped(scores, cells)).dropna(subset="on_top")
    assert dots["fit"].tolist() == ["seed0", "seed1", "seed2"]
    assert dots["on_top"].tolist() == pytest.approx([ON_TOP.mean() + shift for shift in (-0.4, 0.0, 0.4)])


def test_fits_that_disagree_in_sign_forbid_a_verdict_unless_all_are_nothing():
    assert stacked(*fitted([ON_TOP, -ON_TOP])).iloc[0]["verdict"] == "not settled (fits disagree)"
    nothing = ON_TOP - ON_TOP.mean()
    assert not stacked(*fitted([nothing + 0.01, nothing - 0.01])).iloc[0]["fits_disagree"]


def test_cell_levels_bounds_and_gates():
    y = np.concatenate([np.full(30, 9.0), np.full(20, -1.0)])
    scores = item_scores(make.rows({"c": y}, bias=2.0, mass=0.4))
    table = cell_table(grouped(scores, make.frame([{**make.cell(), "cell": "c"}])))
    found = table.iloc[0]
    p = (expit(y + 2) + expit(y - 2)) / 2
    assert found["p_balanced"] == pytest.approx(p.mean())
    assert found["p_balanced_low"] < p.mean() < found["p_balanced_high"] <= 1
    assert (found["mass_low_share"], found["saturated_share"]) == (1.0, 0.6)
    assert found["p_low_bound"] == pytest.approx(0.4 * p.mean())
    assert found["p_high_bound"] == pytest.approx(0.4 * p.mean() + 0.6)
    assert (found["letter_bias"], found["letter_bias_abs"]) == pytest.approx((2.0, 2.0))
    assert found["letter_locked"] == pytest.approx(0.4)


def test_a_cell_without_rows_is_missing_and_not_zero():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    empty = list(values)[2]
    scores = make.scores({key: y for key, y in values.items() if key != empty})
    found = cell_table(grouped(scores, cells)).set_index("cell").loc[empty]
    assert (found["n"], found["n_items"], found["errors"]) == (0, 60, 0)
    assert found[["p_balanced", "log_odds", "option_mass", "option_mass_min", "letter_locked"]].isna().all()
    assert stacked(scores, cells).iloc[0]["verdict"] == "no verdict (no items)"


def test_no_stack_gives_an_empty_table_with_its_columns():
    table = stacked(make.scores({"c": NONE}), make.frame([{**make.cell(), "cell": "c"}]))
    assert table.columns.tolist() == COLUMNS and table.empty


def test_shifts_compare_with_the_own_base_and_with_the_unchanged_model():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP, multiplier=-1.0)
    table = shift_table(grouped(make.scores(values), cells)).set_index("cell").loc[list(values)]
    assert table["shift"].tolist() == pytest.approx([0, -ALONE.mean(), 0, -ON_TOP.mean()])
    assert table["total"].tolist() == pytest.approx(
        [0, -ALONE.mean(), (BASE - NONE).mean(), (BASE - ON_TOP - NONE).mean()]
    )
    assert cells_module.column_mean(np.full((3, 1), np.nan)) == pytest.approx([np.nan], nan_ok=True)


def test_no_rows_at_all_is_no_data_and_not_a_crash():
    """A run stopped before its first batch, and an evaluator whose rows live elsewhere."""
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    nothing = item_scores(make.rows(values).iloc[:0])
    for scores, frame in (
        (nothing, cells),
        (make.scores(values), pd.concat([cells, make.frame([make.cell(evaluator="open_ended")])])),
    ):
        table = cell_table(grouped(scores, frame))
        assert len(table) == len(frame) and table["p_balanced"].notna().sum() == len(scores) / 60
        assert len(stacked(scores, frame)) == 1 and len(shift_table(grouped(scores, frame))) == len(frame)
        assert reliability_table(grouped(scores, frame))["slope"].notna().sum() == (2 if len(scores) else 0)
    assert stacked(nothing, cells).iloc[0]["verdict"] == "no verdict (no items)"


def test_rows_that_are_all_errors_are_counted():
    values, cells = make.stack(NONE, ALONE, BASE, ON_TOP)
    rows = make.rows(values).assign(logit_0=np.nan, logit_1=np.nan, log_z=np.nan, error="out of memory")
    table = cell_table(grouped(item_scores(rows), cells))
    assert table["errors"].tolist() == [60] * 4 and table["n"].tolist() == [0] * 4
    assert table[["p_balanced", "log_odds", "mass_low_share"]].isna().all(axis=None)


def test_resamples_of_the_vector_meet_each_base_with_their_own_effect_alone():
    """Three vectors on one system prompt: (X, 0) and (none, 0) are shared, each fit's T goes with its own A."""
    lines, values = [{**make.cell(), "fit": ""}, {**make.cell("system_prompt_positive"), "fit": ""}], {}
    values[lines[0]["cell"]], values[lines[1]["cell"]] = NONE, BASE
    for fit, scale in (("a", 0.9), ("b", 1.0), ("c", 1.1)):
        for base, start, effect in (("none", NONE, ALONE), ("system_prompt_positive", BASE, 0.6 * ALONE)):
            lines.append(make.cell(base, vector="caa", multiplier=1.0, fit=fit))
            values[lines[-1]["cell"]] = start + scale * effect
    scores, cells = make.scores(values), make.frame(lines)
    found = stacked(scores, cells).iloc[0]
    assert found["n_fits"] == 3 and found["retention"] == pytest.approx(0.6)
    assert found["retention_low"] == pytest.approx(0.6) and found["retention_high"] == pytest.approx(0.6)
    dots = fit_levels(grouped(scores, cells)).dropna(subset="on_top").set_index("fit")
    assert dots["alone"].tolist() == pytest.approx([scale * ALONE.mean() for scale in (0.9, 1.0, 1.1)])
    assert dots["interaction"].tolist() == pytest.approx([-0.4 * scale * ALONE.mean() for scale in (0.9, 1.0, 1.1)])


def test_several_runs_are_one_family_as_if_they_were_one_run():
    """Alone the first run's interaction has q < .05; beside nine that are nothing it has the q of ten tests."""
    rng, how = np.random.default_rng(3), Resampling(draws=1999)
    apart, values, frames = [], {}, []
    for number in range(10):
        none, base, noise = rng.normal(0, 1, (3, 40))
        noise = noise - noise.mean() + (0.37 if number == 0 else 0.02)
        own, cells = make.stack(none, np.full(40, 1.5) + 0.1 * none, base, np.full(40, 1.5) + 0.1 * none - noise)
        own = {f"{number}|{cell}": y for cell, y in own.items()}
        cells = cells.assign(behavior=f"b{number}").set_axis([f"{number}|{cell}" for cell in cells.index])
        cells.index.name = "cell"
        apart.append(stacking_table(grouped(make.scores(own), cells), how=how))
        values |= own
        frames.append(cells)
    together = stacking_table(grouped(make.scores(values), pd.concat(frames)), how=how)
    assert apart[0]["q_value"].iloc[0] < 0.05
    joint = pd.concat(one_family(apart), ignore_index=True)
    firm = "verdict_stability"
    pd.testing.assert_frame_equal(joint.drop(columns=firm), together.drop(columns=firm))
    assert joint[firm].isna().tolist() == [True] + [False] * 9
    assert joint["q_value"].iloc[0] > 0.05
    assert joint["verdict"].iloc[0] != apart[0]["verdict"].iloc[0]
    assert one_family([apart[0].iloc[:0]])[0].empty


def test_a_verdict_near_its_threshold_is_less_firm_than_one_far_from_it():
    """The vector alone .27 log-odds, at the threshold of .25, and 2.0; the truth "kept whole" in both."""
    gain, noise = np.random.default_rng(8).normal(0, 1, (2, 60))
    firm = {}
    for size in (0.27, 2.0):
        moved = size + 0.3 * (gain - gain.mean())
        firm[size] = line(alone=moved, on_top=moved + 0.1 * noise)["verdict_stability"]
    assert firm[2.0] == 1.0
    assert 0.3 < firm[0.27] < 0.9
    few = line(*(np.arange(8.0) for _ in range(4)))
    assert np.isnan(few["verdict_stability"]), "no verdict, nothing to be firm"
