"""Capability: whose items they are, that they are scored as the A/B test, macro averages, and how a loss is told."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from published import DATA, needs_data
from report_page import PageReader, check_tables
from report_runs import simulate
from small_runs import Small, manifest

from caa_bench.__main__ import main
from caa_bench.analysis.cells import macro
from caa_bench.behaviors.behavior import load_behavior, variants
from caa_bench.behaviors.items import set_key, text_key
from caa_bench.errors import UserError
from caa_bench.evaluators import registry
from caa_bench.evaluators.capability import Capability
from caa_bench.recipe import load_recipe
from caa_bench.report import Report, make_report, write_report
from caa_bench.report.headline import with_capability_loss
from caa_bench.runs.folder import RowStore

BOTH = "evaluators=[answer_probability, capability]"


def items(source: str, data_dir: Path | None = None) -> list[Any]:
    """What the evaluator asks."""
    evaluator = Capability(Capability.Config(source=source), data_dir=data_dir)
    return list(evaluator.items(load_behavior("refusal"), split="test"))


def categories(found: list[Any]) -> Counter[str]:
    return Counter(item.id.rpartition("/")[0] for item in found)


def test_the_recipes_measure_it() -> None:
    assert load_recipe("compare").args.evaluators == ("answer_probability", "capability")
    assert load_recipe("compare").sections["capability"].source == "own"
    recipe = load_recipe("capability")
    assert recipe.sections["capability"].source == "mmlu"
    assert sorted((0.0, *recipe.sections["caa"].multipliers)) == [-2, -1, 0, 1, 2]
    assert registry()["capability"] is Capability


def test_own_facts_in_turn_over_the_categories_so_that_a_limit_takes_from_all() -> None:
    found = items("own")
    assert categories(found) == {f"own/{name}": 30 for name in ("kinds", "opposites", "capitals", "young")}
    assert set(categories(found[:8]).values()) == {2}
    assert {len(item.options) for item in found} == {2}
    assert all(len(variants(item)) == 2 and len(variants(item, protocol="caa")) == 1 for item in found)


@needs_data
@pytest.mark.parametrize(("source", "count", "groups"), [("mmlu", 570, 57), ("truthfulqa", 817, 32)])
def test_the_published_items_are_read_as_they_are(source: str, count: int, groups: int) -> None:
    found = items(source, DATA)
    assert (len(found), len(categories(found))) == (count, groups)
    assert len({item.id for item in found}) == count
    assert len(categories(found[:groups])) == groups
    folder = DATA / "test" / source
    raw = json.loads(next(folder.glob("*.json")).read_text())
    by_text = {entry["prompt"]: entry for entry in raw}
    for item in found:
        entry = by_text[item.question]
        assert item.options[item.matching] == entry["correct_full_text"].strip()
        assert item.options[item.other] == entry["incorrect_full_text"].strip()


def test_data_that_are_not_there_are_one_line(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAA_BENCH_CACHE", str(tmp_path / "cache"))
    assert main(["check", *small.settings(BOTH, "capability.source=mmlu")]) == 2
    said = capsys.readouterr().err
    assert said == (
        "caa-bench: override: capability.source: mmlu is not here yet; run caa-bench data download (4 MB), or set "
        "capability.source=own\n"
    )
    with pytest.raises(UserError, match=f"truthfulqa is not in {tmp_path}"):
        items("truthfulqa", tmp_path)


def test_every_fault_of_a_file_is_a_line(tmp_path: Path) -> None:
    sound = {"prompt": "2 + 2?\n\nChoices:\n(A) 4\n(B) 5", "correct": "(A)", "incorrect": "(B)", "category": "sums"}
    wrong = [
        sound,
        {**sound, "correct": "(C)"},
        {key: value for key, value in sound.items() if key != "category"},
        {**sound, "prompt": "2 + 2?"},
        {**sound, "incorrect": "(A)"},
    ]
    (tmp_path / "test/mmlu").mkdir(parents=True)
    path = tmp_path / "test/mmlu/mmlu.json"
    path.write_text("[" + ",\n".join(json.dumps(entry) for entry in wrong) + "]")
    with pytest.raises(UserError) as caught:
        items("mmlu", tmp_path)
    says = ['"correct" is "(C)", which is none', '"category" is missing', "no options found", 'both answers are "(A)"']
    assert len(caught.value.lines) == len(says)
    for number, (line, words) in enumerate(zip(caught.value.lines, says, strict=True), start=2):
        assert line.startswith(f"{path}:{number}: ")
        assert words in line


def test_categories_count_alike_whatever_their_size() -> None:
    values = np.array([[1.0, 0.5], [0.0, np.nan], [0.5, 0.25], [1.0, np.nan]])
    sizes = np.array([0, 1, 1, 1])
    made = macro(values, sizes)
    assert made[:, 0].mean() == pytest.approx((1.0 + 0.5) / 2)
    assert np.nanmean(made[:, 1]) == pytest.approx((0.5 + 0.25) / 2)
    assert np.array_equal(np.isnan(made), np.isnan(values))
    for alike in (np.zeros(4, int), np.array([0, 0, 1, 1]), np.arange(4)):
        assert macro(values[:, :1], alike) is values[:, :1] or np.array_equal(
            macro(values[:, :1], alike), values[:, :1]
        )
    assert np.array_equal(macro(values, np.zeros(4, int)), values, equal_nan=True), "a split is one category"


def test_a_macro_average_varies_as_its_weights_say() -> None:
    """Over many draws the spread of the averages is that of the values whose plain mean they are."""
    rng = np.random.default_rng(0)
    sizes = np.repeat([0, 1, 2], [60, 20, 10])
    drawn = rng.normal(size=(90, 4000))
    averages = np.mean([drawn[sizes == k].mean(axis=0) for k in range(3)], axis=0)
    made = macro(drawn, sizes)
    assert made.mean(axis=0) == pytest.approx(averages)
    assert np.mean(made.std(axis=0, ddof=1) / math.sqrt(90)) == pytest.approx(averages.std(), rel=0.05)


@pytest.fixture(scope="module")
def ran(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt, an adapter, a vector and a placebo, with plain facts beside the behavior."""
    here = tmp_path_factory.mktemp("capability")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(small.compare(BOTH, "limit=24", "vectors=[caa, random]")) == 0
    return here / "run"


def test_the_run_keeps_what_it_asked(ran: Path) -> None:
    """So that a number of the page leads to the question and its options, not to an id."""
    texts = manifest(ran)["facts"]["texts"]
    asked = {row["item"] for row in RowStore(ran / "rows.jsonl").rows() if row["item"].startswith("own/")}
    assert len(asked) == 24 and asked <= set(texts)
    one = texts[min(asked)]
    assert one["question"] and len(one["options"]) == 2 and one["matching"] in (0, 1)


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_measured_under_every_base_and_dose_but_no_placebo(ran: Path) -> None:
    cells = [cell for cell in table(ran / "cells.csv") if cell["evaluator"] == "capability"]
    bases = ("none", "system_prompt_positive", "lora_sft_positive")
    grid = [("", "0"), ("caa", "-8"), ("caa", "8")]
    assert {(c["base"], c["vector"], c["multiplier"]) for c in cells} == {(b, *dose) for b in bases for dose in grid}
    assert {cell["n"] for cell in cells} == {"24"}
    assert len({cell["log_odds"] for cell in cells}) == len(cells) == 9
    others = [cell for cell in table(ran / "cells.csv") if cell["evaluator"] != "capability"]
    assert {cell["vector"] for cell in others} == {"", "caa", "random"}
    for name in ("stacking", "reliability"):
        assert {line["evaluator"] for line in table(ran / f"{name}.csv")} == {"answer_probability"}


def test_the_manifest_says_what_was_asked(ran: Path) -> None:
    """By this the questions of a run are told from the paper's: any other text, key or number is another key."""
    asked, own = manifest(ran)["facts"]["asked"], items("own")[:24]
    assert asked["capability"] == {"n": 24, "key": set_key(map(text_key, own))}
    assert asked["answer_probability"] == {"n": 24, "key": set_key(manifest(ran)["facts"]["items"].values())}
    turned = replace(own[0], matching=own[0].other, other=own[0].matching)
    assert len({set_key(map(text_key, some)) for some in (own, own[::-1], own[1:], [turned, *own[1:]])}) == 3


def test_levels_and_changes_are_plain_arithmetic_on_the_rows(ran: Path) -> None:
    """p(correct) = logistic of the logit difference, both orders, then categories, item by item against the plain."""
    keys = {cell["key"]: cell for cell in manifest(ran)["facts"]["cells"] if cell["evaluator"] == "capability"}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {key: {} for key in keys}
    for row in RowStore(ran / "rows.jsonl").rows():
        if row["cell"] in keys:
            right, wrong = row["logits"][row["matching"]], row["logits"][1 - row["matching"]]
            p = 1 / (1 + math.exp(wrong - right))
            found[row["cell"]].setdefault(row["item"], []).append((p, float(right > wrong)))

    def average(cell: str, place: int) -> float:
        groups: dict[str, list[float]] = {}
        for item, asked in found[cell].items():
            assert len(asked) == 2
            groups.setdefault(item.rpartition("/")[0], []).append((asked[0][place] + asked[1][place]) / 2)
        assert len(groups) == 4
        return sum(sum(group) / len(group) for group in groups.values()) / len(groups)

    (plain,) = [key for key, cell in keys.items() if cell["base"] == "none" and not cell["multiplier"]]
    levels = {line["cell"]: line for line in table(ran / "cells.csv")}
    shifts = {line["cell"]: line for line in table(ran / "shifts.csv")}
    for key in keys:
        assert float(levels[key]["p_balanced"]) == pytest.approx(average(key, 0), rel=1e-8)
        assert float(levels[key]["accuracy"]) == pytest.approx(average(key, 1), rel=1e-8)
        assert float(levels[key]["p_balanced_low"]) < average(key, 0) < float(levels[key]["p_balanced_high"])
        change = average(key, 0) - average(plain, 0)
        assert float(shifts[key]["total_p"]) == pytest.approx(change, rel=1e-6, abs=1e-9)


def test_the_paper_s_protocol_asks_the_given_order_alone(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["bases=[none]", "vectors=[]", "evaluators=[capability]", "limit=8", "protocol=caa"]
    assert main(small.compare(*settings)) == 0
    rows = list(RowStore(Path("run/rows.jsonl")).rows())
    assert {row["order"] for row in rows} == {0}
    assert len(rows) == 8
    assert Path("run/report.html").is_file(), "a run of capability alone has a report too"


def test_a_dry_run_counts_what_is_measured(
    small: Small, ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*small.compare(BOTH, "limit=24", "vectors=[caa, random]"), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"cells: {len(manifest(ran)['facts']['cells'])}" in said
    assert sum(line.startswith("  capability: ") for line in said) == 3


def reported(root: Path, loss: Mapping[tuple[str, float], float] | None, **changes: Any) -> Report:
    """A simulated run; `loss` is what each (base, multiplier) takes from the log-odds of the correct option."""
    settings = {"items": 40, "vectors": ("caa", "random"), "multipliers": (-2.0, -1.0, 1.0, 2.0)} | changes
    return make_report(simulate(root / "runs" / "compare" / "run", loss=loss, **settings))


def clause(report: Report) -> str:
    """What the answer says of it."""
    lines = report.text(detail=True).split("\n\n")[0].replace("\n    ", " ").splitlines()
    said = [line for line in lines if "apability" in line]
    assert len(said) <= 1
    return said[0] if said else ""


def test_the_dose_at_which_it_has_fallen_is_named(tmp_path: Path) -> None:
    """The first of either sign; a base that costs it alone stands for every stack on it."""
    loss = {("none", 2.0): 1.5, ("none", -1.0): 0.8, ("none", -2.0): 2.0}
    loss |= {("lora_sft_positive", dose): 1.0 for dose in (-2.0, -1.0, 0.0, 1.0, 2.0)}
    said = clause(reported(tmp_path, loss))
    assert said.startswith("Capability falls by .05 or more at CAA -1 (-0.")
    assert ", CAA +2 (-0." in said
    assert ", the positive LoRA (-0." in said
    assert "on the positive LoRA" not in said
    assert "% correct without steering" in said and said.endswith("(plain facts, n 40)")


def test_a_base_alone_is_told_apart_from_the_vector(tmp_path: Path) -> None:
    said = clause(reported(tmp_path, {("system_prompt_negative", 1.0): 1.0}))
    assert said.startswith("Capability falls by .05 or more at CAA +1 on the negative system prompt (")
    assert ", at no measured dose of CAA alone;" in said


def test_where_nothing_costs_it_that_is_said_with_the_worst(tmp_path: Path) -> None:
    said = clause(reported(tmp_path, {("none", 2.0): 0.1}))
    assert said.startswith("Capability: no measured dose costs .05 (largest change: -0.02 [")
    assert " at CAA +2)" in said


def test_where_it_was_not_measured_nothing_is_said(tmp_path: Path) -> None:
    report = reported(tmp_path, None)
    assert clause(report) == ""
    assert "cap." not in report.text(detail=True)


def test_a_missing_cell_is_missing_and_never_zero(tmp_path: Path) -> None:
    """All answers of CAA +1 on the plain model are errors: n/a in the arm's row, no number anywhere."""
    folder = tmp_path / "runs" / "compare" / "run"
    report = reported(tmp_path, {("none", 1.0): math.nan})
    row = next(line for line in report.text().splitlines() if line.startswith("    + CAA +1"))
    assert row.count("n/a") == 1
    levels = report.text().split("Capability (")[1].splitlines()[2]
    assert levels.split()[0] == "none" and levels.count("n/a") == 1
    write_report(folder)
    tables = PageReader((folder / "report.html").read_text()).tables
    (table,) = (one for one in tables if "shifts.total_p" in one.sources)
    assert "n/a" in table.column("shifts.total_p").values()
    check_tables(folder)


def test_every_number_of_the_page_is_its_table_s(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "compare" / "run"
    report = reported(tmp_path, {("none", 2.0): 1.5, ("lora_sft_positive", 0.0): 0.7})
    write_report(folder)
    counted = check_tables(folder)
    assert counted["cells.accuracy"] == counted["shifts.total_p"] == 6 * 5, "a line a base and multiplier"
    assert counted["arms.capability"] == 6 * 3
    read = PageReader((folder / "report.html").read_text())
    assert "Capability falls by .05 or more at" in read.loose["answer"]
    arms = report.text().split("\n\n")[2]
    assert "  cap.  " in arms
    assert max(map(len, arms.splitlines())) <= 120


def test_warnings_and_verdicts_are_about_the_behavior_alone(tmp_path: Path) -> None:
    """A capability that nothing moves gives no warning of a vector that does nothing."""
    with_it = reported(tmp_path / "with", {})
    without = reported(tmp_path / "without", None)
    assert with_it.notices == without.notices
    pd.testing.assert_frame_equal(with_it.stacking.drop(columns="model"), without.stacking.drop(columns="model"))


def test_a_dose_that_costs_too_much_is_not_chosen(tmp_path: Path) -> None:
    """On the selection split the largest shift among those that lose at most .03."""
    sweep = {"recipe": "layer_sweep", "bases": ("none",), "layers": (2, 3), "overrides": ["caa.layers=[2,3]"]}
    cheap, dear = (reported(tmp_path / str(n), loss, **sweep) for n, loss in enumerate(({}, {("none", 2.0): 1.0})))
    assert [choice.key["multiplier"] for choice in cheap.headline.choices] == [2.0, -2.0]
    assert [choice.key["multiplier"] for choice in dear.headline.choices] == [1.0, -2.0]
    lost = with_capability_loss(dear.shifts, dear.shifts)
    steered = lost[(lost["multiplier"] == 2) & (lost["vector"] == "caa")]
    assert (steered["capability_loss_high"] > 0.03).all()
    assert lost.loc[lost["vector"] == "random", "capability_loss_high"].isna().all()


def test_the_published_folder_comes_from_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("compare", [f"data_dir={tmp_path}", "data=caa", "capability.source=mmlu"])
    (evaluator,) = [one for one in recipe.evaluators() if one.name == "capability"]
    assert evaluator.data_dir == tmp_path
    own = replace(recipe, args=replace(recipe.args, data_dir=None)).evaluators()
    assert [one.data_dir for one in own if one.name == "capability"] == [None]
