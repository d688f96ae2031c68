"""The first line of a report claims what the numbers bear out: size, interval, placebos, ties, the layer that leads."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import simulate

from caa_bench.errors import UserError
from caa_bench.report import Report, make_report, words
from caa_bench.report.arms import stacked
from caa_bench.report.attention import Notice
from caa_bench.report.headline import find_headline
from caa_bench.report.page import render_page
from caa_bench.report.sentence import card, sentence

SWEEP: dict[str, Any] = {"bases": ("none",), "layers": tuple(range(6)), "multipliers": (-1.0, 1.0)}


def _report(root: Path, **changes: Any) -> Report:
    return make_report(simulate(root / "runs" / "compare" / "run", **changes))


def _first(report: Report) -> str:
    return sentence(report).lines()[0]


def test_where_nothing_moves_that_is_said_with_the_largest(tmp_path: Path) -> None:
    """A shift of +0.10 and one of CAA near 0, each with an interval that clears 0: nothing moves, and nothing beats."""
    bases = ("none", "system_prompt_neutral")
    gain = {"caa": 0.02, "random": 0.05, "shuffled": -0.08}
    report = _report(tmp_path, bases=bases, gain=gain, items=60, multipliers=(-1.0, 1.0), draws=19)
    first = _first(report)
    assert first.startswith("Nothing measured here moves refusal (largest: the neutral system prompt, +0.10")
    assert "most" not in first and first.endswith("43% -> 45%)")
    alone = report.arms[report.arms["kind"] == "vector"]
    assert alone["verdict_words"].tolist() == ["within the 19 shuffled placebos, p = .25"] * 2


def test_the_rank_among_the_strictest_kind_of_placebos_is_told(tmp_path: Path) -> None:
    """CAA moves by .4 log-odds; draw d of a placebo moves by 1 / d of the first, on either side."""
    told = {}
    for draws, placebo in ((19, 0.1), (19, -0.5), (19, 0.5), (19, 0.9), (18, 0.1), (18, 0.5), (39, 0.5)):
        gain = {"caa": 0.4, "random": placebo, "shuffled": 0.0}
        report = _report(
            tmp_path / f"{draws} {placebo}", bases=("none",), gain=gain, multipliers=(-1.0, 1.0), draws=draws
        )
        (told[draws, placebo],) = set(report.arms.loc[report.arms["kind"] == "vector", "verdict_words"])
    assert told == {
        (19, 0.1): "beyond all 19 random and all 19 shuffled placebos, p = .05",
        (19, -0.5): "within the 19 random placebos, p = .10",
        (19, 0.5): "within the 19 random placebos, p = .10",
        (19, 0.9): "within the 19 random placebos, p = .15",
        (18, 0.1): "",  # p = 1/19 is above .05, and no placebo is as large
        (18, 0.5): "within the 18 random placebos, p = .11",
        (39, 0.5): "beyond 38 of 39 random and all 39 shuffled placebos, p = .05",
    }


def test_the_words_of_placebos_are_explained_whatever_their_numbers() -> None:
    told = "beyond 38 of 39 random and all 19 shuffled placebos, p = .05; log-odds only"
    assert words.short_placebos(told) == "beyond placebos; log-odds only"
    assert words.meaning(told).count(": ") >= 2 and "of each kind of placebo" in words.meaning(told)
    assert "moves as much" in words.meaning("within the 19 random placebos, p = .15")


def test_below_twenty_items_nothing_is_said_of_placebos(tmp_path: Path) -> None:
    report = _report(tmp_path, items=12, bases=("none",), multipliers=(-1.0, 1.0))
    assert report.arms["verdict_words"].tolist() == ["", "", ""]
    assert _first(report).startswith("Too few items for an interval, so nothing is said to move refusal")


def test_arms_that_move_it_equally_are_a_tie(tmp_path: Path) -> None:
    """CAA +1 on the unchanged model adds what the prompt does, give or take less than the items' spread."""
    gain = {"caa": 2.49, "random": 0.0, "shuffled": 0.0}
    bases = ("none", "system_prompt_positive")
    report = _report(tmp_path, bases=bases, gain=gain, multipliers=(-1.0, 1.0), items=40)
    arms = report.arms.set_index("arm")
    gap = report.contrast({arms.loc["CAA +1", "cell"].iloc[0]: 1.0, arms.loc["system_prompt_positive", "cell"]: -1.0})
    assert gap.low < 0 < gap.high
    first = _first(report)
    assert "raise refusal about equally (43% -> " in first
    assert "CAA +1" in first and "the positive system prompt" in first.lower()
    apart = _report(tmp_path / "apart", bases=bases, multipliers=(-1.0, 1.0))
    assert _first(apart).startswith("The positive system prompt raises refusal most (43% -> 82%)")


def test_a_dose_that_moves_more_than_the_one_that_leads_is_named(tmp_path: Path) -> None:
    report = _report(tmp_path, bases=("none",), multipliers=(-2.0, -1.0, 1.0, 2.0), vectors=("caa",))
    assert report.headline.doses == (-1.0, 1.0)
    level = words.percent(report.cells.set_index("multiplier").loc[2.0, "p_balanced"])
    assert f"CAA +1 raises refusal most (43% -> 73%), though CAA +2 moves it further ({level})" in _first(report)


def test_the_same_level_is_never_shown_as_a_change(tmp_path: Path) -> None:
    """`99% -> 99%` says nothing."""
    report = _report(tmp_path, bases=("none",), gain={"caa": 0.001, "random": 0.0, "shuffled": 0.0})
    assert "43% before and after" in _first(report)


def test_a_sweep_leads_with_the_peak_though_the_letters_hold_less_than_nine_tenths(tmp_path: Path) -> None:
    """The gate is relative to the unchanged model: with .77 of the mass on letters everywhere, layer 3 still leads."""
    report = _report(tmp_path, recipe="layer_sweep", mass=0.77, items=30, **SWEEP)
    assert report.headline.layer == 3
    assert report.headline.layer_reason.startswith("the largest shift on the selection split, 12 tries")
    assert "capability was not measured" in report.headline.layer_reason
    weighed = _report(tmp_path / "weighed", recipe="layer_sweep", mass=0.77, items=30, loss={}, **SWEEP)
    assert weighed.headline.layer_reason == (
        "the largest shift on the selection split, 12 tries; 30 capability questions cannot show that it costs little, "
        "so the loss itself decided"
    )


def test_a_dose_that_loses_the_mass_is_not_chosen(tmp_path: Path) -> None:
    """Layer 3 at +1 and -1 keeps .8 of the unchanged model's mass, under the gate of .9: another layer leads."""
    report = _report(tmp_path, recipe="layer_sweep", items=30, **SWEEP)
    poor = report.shifts.assign(
        option_mass=report.shifts["option_mass"].where(report.shifts["layer"] != 3, 0.8 * report.shifts["option_mass"])
    )
    assert find_headline(report.record, poor).layer in (2, 4)


def test_a_default_layer_is_never_taken_in_silence(tmp_path: Path) -> None:
    """Where no layer qualifies the reason says so, and so does a warning; on the test split nothing is chosen."""
    report = _report(tmp_path, recipe="layer_sweep", items=24, loss={
        ("none", dose): 3.0 for dose in (-1.0, 1.0)
    }, **SWEEP)  # fmt: skip
    assert report.headline.choices == () and report.headline.layer == 3
    assert report.headline.layer_reason == "the model's default of 6 layers run, as no layer qualified"
    (said,) = [notice for notice in report.notices if "No layer qualified" in notice.text]
    assert said.severity == "caution" and "Layer 3 leads by default" in said.text
    tested = _report(tmp_path / "test", items=24, layers=(2, 3), overrides=["caa.layers=[2,3]"])
    assert tested.headline.layer_reason == "the model's default of 2 layers run; nothing is chosen on the test split"


def test_an_interval_without_width_is_not_printed() -> None:
    """20 of 20 at the ceiling: the point, and no certainty that is not there."""
    line = {"score": 1.0, "score_low": 1.0, "score_high": 1.0}
    assert words.interval(line, "score", words.probability) == "1.000"
    assert words.interval(line | {"score_low": 0.9}, "score", words.probability) == "1.000 [.90, 1.000]"


def test_captions_speak_of_placebos_only_where_some_ran(tmp_path: Path) -> None:
    """And a second vector's placebos are no band of the first."""
    from caa_bench.report import write_report

    pages = {}
    for vectors in (("caa",), ("caa", "random")):
        run = simulate(tmp_path / str(len(vectors)) / "runs/compare/run", bases=("none",), vectors=vectors, items=24)
        write_report(run)
        pages[vectors] = (run / "report.html").read_text().split('id="repeat"')[0]
    assert "placebo" not in pages["caa",]
    assert "placebos&#39; range" in pages["caa", "random"] or "placebos' range" in pages["caa", "random"]
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["facts"]["interventions"] = {
        "caa": {"name": "caa", "role": "vector", "placebo_of": None},
        "random": {"name": "random", "role": "vector", "placebo_of": "other"},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert make_report(run).band.empty


@pytest.mark.parametrize(
    ("label", "shown"),
    [("caa", "CAA"), ("system_prompt_positive", "positive system prompt"), ("mine", "mine"),
     ("none", "unchanged model"),
     ("lora_sft_negative+system_prompt_positive", "negative LoRA with positive system prompt")],
)  # fmt: skip
def test_arms_have_names_for_sentences(label: str, shown: str) -> None:
    assert words.display(label) == shown


@pytest.mark.parametrize(
    ("value", "text"), [(0.54, "54%"), (0.003, "0.3%"), (0.997, "99.7%"), (0.9999, ">99.9%"), (float("nan"), "n/a")]
)
def test_percentages_keep_the_digits_that_matter(value: float, text: str) -> None:
    assert words.percent(value) == text


def test_a_colour_is_an_arm_s_whatever_else_runs(tmp_path: Path) -> None:
    """A kind of arm has one color in every run; a smaller dose of it is paler."""
    from caa_bench.report.figures import curves, look_of

    alone = _report(tmp_path / "a", bases=("none", "lora_sft_positive"), vectors=("caa",), items=24)
    every = _report(tmp_path / "b", vectors=("caa",), items=24)
    colors = [{curve.name: curve.look["color"] for curve in curves(report)} for report in (alone, every)]
    assert colors[0].items() <= colors[1].items()
    assert len(set(colors[1].values())) == 3
    assert look_of("lora_sft_positive", 0.25)["alpha"] < look_of("lora_sft_positive", 0.5)["alpha"] < 1


def test_the_card_has_four_sentences_and_a_chip_a_base(tmp_path: Path) -> None:
    """What moves it, what stacks, what it costs, how sure that is; each base's verdict by its color."""
    report = _report(tmp_path, loss={}, vectors=("caa",), kept={"system_prompt_positive": 0.6})
    shown = card(report)
    assert len(shown.sentences) == 4 and not shown.null
    assert shown.sentences[0].startswith("The positive LoRA raises refusal most (43% -> ")
    assert (
        shown.sentences[1].startswith("CAA ")
        and "adds less on the positive system prompt (82% -> " in shown.sentences[1]
    )
    assert shown.sentences[2].startswith("No measurable capability cost (")
    assert shown.sentences[2].endswith("correct without steering, plain facts, n 60)")
    sure = "How sure: the positive LoRA by +5.50 and the negative LoRA by -5.00 log-odds; n 60 items"
    assert shown.sentences[3] == sure  # the simulated shift is the same on every item: no interval is wider than it
    assert [one.section for one in shown.told] == ["arms", "arms", "capability", "arms"]
    kinds = {chip.base: chip.kind for chip in shown.chips}
    assert kinds["Positive system prompt"] == "adds less" and kinds["Positive LoRA"] == "no room"
    assert all(chip.meaning for chip in shown.chips)
    assert shown.beside[0].clause == ("No dose or layer was tuned on these items",)


def test_the_card_s_null_is_honest(tmp_path: Path) -> None:
    """Nothing moves, nothing adds; and what was not measured is said not to be known."""
    bases, gain = ("none", "system_prompt_neutral"), {"caa": 0.02, "random": 0.05}
    shown = card(_report(tmp_path, bases=bases, gain=gain, multipliers=(-1.0, 1.0), vectors=("caa", "random")))
    assert shown.sentences[0].startswith("Nothing measured here moves refusal (largest: ")
    assert shown.sentences[1].startswith("CAA adds nothing on the neutral system prompt (")
    assert shown.sentences[2] == "The capability was not measured"
    assert shown.null
    assert shown.sentences[3] == "How sure: CAA at -1 and +1 is within the 1 random placebo, p = 1.00; n 60 items"
    assert [chip.kind for chip in shown.chips] == ["adds nothing"]


def test_where_the_model_does_not_answer_with_a_letter_that_stands_in_front(tmp_path: Path) -> None:
    """Over a quarter of the items with an option mass under .5: what does not move cannot be measured so."""
    bases, gain = ("none", "system_prompt_neutral"), {"caa": 0.02}
    folder = simulate(tmp_path / "run", bases=bases, gain=gain, multipliers=(-1.0, 1.0), vectors=("caa",))
    report = make_report(folder)
    report.cells["mass_low_share"] = 0.25
    assert card(report).sentences[0].startswith("Nothing measured here moves refusal (largest: ")
    report = make_report(folder)  # anew: what was worked out of the cells is kept
    report.cells["mass_low_share"] = 0.3
    said = card(report).sentences[0]
    assert said.startswith("Not measurable by letters, which hold ")
    assert "ask in words (recipes/open_ended.yaml)" in said and "(largest: " in said


def test_a_model_that_guesses_has_no_cost_that_could_be_seen(tmp_path: Path) -> None:
    folder = simulate(tmp_path / "runs" / "compare" / "run", loss={}, vectors=("caa",))
    assert card(make_report(folder)).sentences[2].startswith("No measurable capability cost (79% ")
    report = make_report(folder)  # anew: what was worked out of the cells is kept
    report.cells.loc[report.cells["evaluator"] == "capability", "p_balanced"] = 0.51
    said = card(report).sentences[2]
    assert said.startswith("What it costs is not known: there is little to lose (51% correct without steering, ")


def test_how_sure_holds_intervals_and_the_rank_among_placebos(tmp_path: Path) -> None:
    """The numbers are those of arms.csv."""
    report = _report(tmp_path, bases=("none",), multipliers=(-1.0, 1.0), draws=19)
    arms = report.arms.set_index("multiplier")
    up, down = (words.interval(arms.loc[dose].to_dict(), "shift", words.signed) for dose in (1.0, -1.0))
    rank = "is beyond all 19 random and all 19 shuffled placebos, p = .05"
    wanted = (
        f"How sure: CAA +1 by {up} and CAA -1 by {down} log-odds (95% interval); CAA at -1 and +1 {rank}; n 60 items"
    )
    assert card(report).sentences[-1] == wanted and "[" in up


@pytest.mark.parametrize(("gain", "first"), [(0.02, "answer"), (1.8, "grave")])
def test_where_nothing_moves_that_stands_above_the_severe_warnings(tmp_path: Path, gain: float, first: str) -> None:
    """Elsewhere they stand above the answer, which they put in doubt; and what is missing always does."""
    run = simulate(
        tmp_path / "runs/compare/refusal", items=40, bases=("none",), multipliers=(-1.0, 1.0), letter_bias=6.0,
        gain={"caa": gain}, vectors=("caa",),
    )  # fmt: skip
    report = make_report(run)
    assert report.grave and report.notices[0].severity == "severe"
    page = render_page(report)
    places = {"answer": page.index('<p class="lead">'), "grave": page.index('id="grave"')}
    assert min(places, key=places.__getitem__) == first
    missing = replace(report, notices=(Notice(severity="missing", text="1 of 2 batches"), *report.notices))
    page = render_page(missing)
    assert page.index('id="grave"') < page.index('<p class="lead">')


def test_a_cost_is_said_where_it_is_measured(tmp_path: Path) -> None:
    """The LoRA takes .8 of the log-odds of facts, and makes text less likely by .2 a token."""
    loss, rise = {("lora_sft_positive", 0.0): 0.8}, {("lora_sft_positive", 0.0): 0.2}
    report = _report(tmp_path, bases=("none", "lora_sft_positive"), loss=loss, rise=rise, vectors=("caa",))
    said = card(report).sentences[2]
    assert said.startswith("Capability falls by .05 or more at the positive LoRA (-0.1")
    assert "perplexity rises 1.2" in said and said.endswith("times at the positive LoRA")


def test_the_ring_is_where_full_addition_lands(tmp_path: Path) -> None:
    """On log-odds the base plus CAA alone; where all is kept it is where CAA lands, on p too."""
    kept = {"system_prompt_positive": 0.5, "system_prompt_negative": 0.85}  # CAA alone: .85
    bases = ("none", *kept)
    report = _report(tmp_path, bases=bases, kept=kept, multipliers=(-1.0, 1.0), vectors=("caa",))
    table, arms = stacked(report).set_index(["base", "multiplier"]), report.arms.set_index(["base", "multiplier"])
    cells = report.cells.set_index("cell")["log_odds"]
    plain, alone = cells[arms.loc[("none", 0.0), "cell"]], cells[arms.loc[("none", 1.0), "cell"]]
    for base in kept:
        own = cells[arms.loc[(base, 0.0), "cell"]]
        assert table.loc[(base, 1.0), "log_odds_full"] == pytest.approx(own + alone - plain)
        assert table.loc[(base, 1.0), "log_odds_before"] == pytest.approx(own)
    half = table.loc[("system_prompt_positive", 1.0)]
    assert half["p_balanced_full"] > half["p_balanced_after"] + 0.02
    assert half["p_balanced_after"] == pytest.approx(arms.loc[("system_prompt_positive", 1.0), "p_balanced"])
    whole = table.loc[("system_prompt_negative", 1.0)]
    assert whole["p_balanced_full"] == pytest.approx(whole["p_balanced_after"], abs=0.02)
    assert math.isnan(table.loc[("none", 1.0), "p_balanced_full"])


def test_every_verdict_of_the_documentation_has_a_chip_and_a_meaning() -> None:
    """docs/numbers.md lists them; none is without its word and its definition."""
    text = (Path(__file__).parents[1] / "docs/numbers.md").read_text()
    rows = re.findall(r"^    \| ([^|]+) \|", text.split("10. **The words**")[1].split("12. **Caveats**")[0], re.M)
    rows = [row.strip() for row in rows if row.strip() not in ("verdict", "tag", "---")]
    assert len(rows) >= 20
    assert [row for row in rows if not words.meaning(row)] == []
    kinds = {row: words.verdict_kind(row) for row in rows}
    assert kinds["works against"] == "backfires" and kinds["adds, share not settled"] == "adds"
    assert kinds["V does nothing alone"] == "adds nothing" and kinds["not settled (fits disagree)"] == "not settled"
    assert [kinds[one] for one in ("not measurable", "no verdict (n < 20)")] == ["not measurable", "no verdict"]
    assert words.meaning("adds, share not settled").count(":") == 1


def test_a_notebook_shows_the_answer_and_the_chart(tmp_path: Path) -> None:
    """Escaped text and one SVG; `plot` gives the figure, and an error where there is nothing to plot."""
    report = _report(tmp_path, items=24, bases=("none", "system_prompt_positive"), vectors=("caa",), title="<Refusal>")
    shown = report._repr_html_()
    assert shown.count("<svg") == 1 and "raises" in shown and "<Refusal>" not in shown and "<refusal>" not in shown
    figure = report.plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "Unchanged model", "Positive system prompt"
    ]  # fmt: skip
    figure.savefig(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5000
    bare = _report(tmp_path / "bare", items=24, bases=("none",), vectors=())
    with pytest.raises(UserError, match="nothing to plot"):
        bare.plot()


def test_a_report_says_what_it_is_in_one_line(tmp_path: Path) -> None:
    report = _report(tmp_path, items=24, bases=("none",))
    assert repr(report).startswith("Report(") and len(repr(report)) < 200 and "refusal on tiny" in repr(report)
    assert isinstance(replace(report, notices=()).arms, pd.DataFrame)
