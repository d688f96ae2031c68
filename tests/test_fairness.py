"""Matched doses, effect at equal capability loss and the tries of every arm: from the rows to the page."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_page import PageReader, check_tables
from report_runs import simulate

from caa_bench.config.recipe_yaml import split_overrides
from caa_bench.recipe import load_recipe
from caa_bench.report import Report, make_report, tables, to_csv
from caa_bench.report.page import render_page

N = 24
DOSES = (0.1, 0.25, 0.5, 1.0)
LORA = {"lora_sft_positive": DOSES, "lora_sft_negative": DOSES}
BASES = ("none", "system_prompt_positive", "lora_sft_positive", "lora_sft_negative")
LOSS = {("none", 1.0): 0.3, ("lora_sft_positive", 0.0): 0.9, ("lora_sft_negative", 0.0): math.nan}
MULTIPLIERS = (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)
TRIED = "CAA up 4, CAA down 4, system_prompt_positive 1, lora_sft_positive 4, lora_sft_negative 4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection run of two finetunes at four doses, with their capability."""
    run = _run(tmp_path_factory.mktemp("selection"), multipliers=MULTIPLIERS, loss=LOSS)
    report = make_report(run)
    for name, table in tables(report).items():
        (run / f"{name}.csv").write_text(to_csv(table))
    (run / "report.html").write_text(render_page(report))
    return run


@pytest.fixture(scope="module")
def selected(folder: Path) -> Report:
    """Its report."""
    return make_report(folder)


def test_the_dose_that_moves_as_far_as_caa_is_named(selected: Report) -> None:
    """Finetunes of 5.5 and -5 at full strength, CAA of about 1.6: a quarter of each is nearest."""
    table = tables(selected)["matched"].set_index("base")
    assert list(table.index) == list(BASES[1:])
    assert table.loc[BASES[1] :, "base_dose"].tolist() == [1.0, 0.25, 0.25]
    assert table["total"].tolist() == pytest.approx([2.2, 1.375, -1.25])
    assert table["multiplier"].tolist() == [0.75, 0.75, -1.0], "+1 costs more capability than a choice may"
    assert table["tries"].tolist() == [1, 4, 4]
    assert not table["at_edge"].any()
    assert (table["n"] == N).all() and (table["gap_low"] <= table["gap"]).all()


def test_everything_that_is_matched_is_printed_with_the_command_that_tests_it(selected: Report) -> None:
    """One line a base with both effects and the gap; the command gives the test run its doses, and no others."""
    text = selected.text()
    section = text[text.index("Matched doses.") :].split("\n\n")[0]
    line = next(x for x in section.splitlines() if x.startswith("  lora_sft_negative x0.25"))
    assert line.split()[2].startswith("-1.25") and line.split()[-2:] == [f"{N}", "4"]
    assert f"{TRIED}." in " ".join(section.split())
    command = shlex.split(section.splitlines()[-1])
    assert command[:3] == ["make", "compare", "BEHAVIOR=refusal"]
    name, _, settings = command[3].partition("=")
    recipe = load_recipe("compare", split_overrides(settings))
    assert (name, recipe.args.split) == ("SET", "test")
    assert settings == "lora_sft.doses=[1,0.25] caa.multipliers=[-1,0.75]"
    assert max(map(len, text.splitlines())) <= 120


def test_the_command_sets_what_else_decides_a_fit(tmp_path: Path) -> None:
    """Another model, rank and text: the same fits are found again; a blank and the layers of a sweep survive SET."""
    overrides = ["model=llama2-7b-chat", "lora_sft.rank=4", "lora_sft.target=text", "seed=3", "caa.layers=[2,3]"]
    overrides.append("data_dir='/my \"own\" data'")
    command = _run(tmp_path, layers=(2, 3), overrides=overrides)
    shown = next(x for x in make_report(command).text().splitlines() if x.startswith("  make compare"))
    words = shlex.split(shown)
    assert words[3] == "MODEL=llama2-7b-chat"
    flat = load_recipe("compare", split_overrides(words[4].partition("=")[2])).flat()
    assert (flat["lora_sft"]["rank"], flat["lora_sft"]["target"], flat["seed"]) == (4, "text", 3)
    assert flat["lora_sft"]["doses"] == (1.0, 0.25)
    assert flat["caa"]["layers"] == (3,)
    assert str(flat["data_dir"]) == '/my "own" data'


def test_nothing_is_chosen_on_the_test_split(tmp_path: Path) -> None:
    """The same run on the test split has no matched dose, no tries and no command; its curve is described."""
    report = make_report(_run(tmp_path, split="test", loss=LOSS))
    assert "matched" not in tables(report) and "equal_loss" in tables(report)
    text = report.text(detail=True)
    assert "Matched doses" not in text and "ries on the selection split" not in text
    assert "a description, nothing is chosen by it" in " ".join(text.split())


def test_a_dose_at_the_edge_is_marked(tmp_path: Path) -> None:
    """The smallest of three is the nearest: a star."""
    text = make_report(_run(tmp_path, doses={"lora_sft_positive": (0.5, 0.75, 1.0)})).text()
    assert "  lora_sft_positive x0.5* " in text
    assert "  lora_sft_negative   " in text, "one dose has no edge"


def test_without_a_dose_of_caa_nothing_is_matched(tmp_path: Path) -> None:
    """Where no dose keeps the capability there is no target: n/a and no command."""
    lost = {("none", dose): 3.0 for dose in MULTIPLIERS}
    report = make_report(_run(tmp_path, loss=lost))
    matched = tables(report)["matched"]
    assert matched[["base_dose", "total", "target", "gap"]].isna().all(axis=None)
    section = report.text().split("Matched doses.")[1].split("\n\n")[0]
    assert section.count("n/a") == 3 * 5
    assert "make compare" not in section


def test_a_run_with_one_dose_a_base_matches_nothing(tmp_path: Path) -> None:
    """The default recipe on the selection split: no section, no file."""
    assert "matched" not in tables(make_report(_run(tmp_path, doses={})))


@pytest.mark.parametrize(("multipliers", "severity"), [((-1.0, -0.5, 0.5, 1.0), "caution"), (MULTIPLIERS, "note")])
def test_unequal_tries_are_said(tmp_path: Path, multipliers: tuple[float, ...], severity: str) -> None:
    """Two tries of CAA beside four of a finetune mislead; a prompt that was not tuned is named only."""
    found = make_report(_run(tmp_path, multipliers=multipliers)).notices
    said = {notice.text: notice.severity for notice in found if "tries on the selection split" in notice.text}
    assert list(said.values()) == [severity]
    assert f"(CAA up {len(multipliers) // 2}, " in next(iter(said))


def test_effects_stand_at_equal_loss(selected: Report) -> None:
    """CAA +1 costs .05. Of the finetune, 24 questions cannot show that any dose loses at most .05 (a tenth: .015, at
    most .13 by its interval), so that none stands at equal loss; an arm in error is missing."""
    found = tables(selected)["equal_loss"].set_index(["arm", "budget"])
    assert found.loc["CAA up", "multiplier"].tolist() == [0.75, 0.75, 0.75 if _lost(selected) > 0.05 else 1.0]
    assert found.loc["CAA down", "multiplier"].tolist() == [-1.0] * 3
    lost = selected.shifts.query("evaluator == 'capability' and base == 'lora_sft_positive' and multiplier == 0")
    assert (lost["total_p_low"] < -0.05).all() and (lost["total_p"] > -0.05).any()
    assert found.loc["lora_sft_positive", "base_dose"].isna().all()
    assert (found["total_p"].fillna(0) >= -found.index.get_level_values("budget")).all()
    assert found.loc["lora_sft_negative", ["total", "n", "total_p"]].isna().all(axis=None)
    assert (found.loc["lora_sft_negative", "doses"] == 0).all()
    text = selected.text(detail=True).split("Effect at equal capability loss.")[1].split("\n\n")[0]
    line = next(x for x in text.splitlines() if x.startswith("  lora_sft_negative"))
    assert line.split()[1:] == [".01", *["n/a"] * 5, "0"]
    assert "Effect at equal" not in selected.text()


def test_every_number_of_both_sections_is_plain_arithmetic(folder: Path) -> None:
    """The page's are those of the CSV files; points there from the raw logits with means and differences."""
    shown = check_tables(folder)
    assert shown["matched.gap"] == shown["matched.target"] == 3
    assert shown["equal_loss.total"] == shown["equal_loss.doses"] == 3 * 5
    scores, checked = _scores(folder), Counter[str]()
    plain = {name: scores.get(cell) for name, cell in _unchanged(folder).items()}
    for name in ("matched", "equal_loss"):
        for _, line in pd.read_csv(folder / f"{name}.csv").iterrows():
            for column in ("gap", "target", "total", "total_p"):
                if column not in line or pd.isna(line[column]):
                    continue
                y, other = _pair(column, line, scores, plain)
                assert line[column] == pytest.approx(float((y - other).mean()), rel=1e-7, abs=1e-12), column
                checked[column] += 1
    assert checked["gap"] == checked["target"] == 3
    assert checked["total"] == 3 + 3 * 5 - 6 and checked["total_p"] == 3 * 5 - 6
    read = PageReader((folder / "report.html").read_text())
    assert "make compare BEHAVIOR=refusal" in read.loose["matched"] and TRIED in read.loose["matched"]


def test_the_sentence_leads_with_the_dose_that_has_room(selected: Report, tmp_path: Path) -> None:
    """The matched dose before the full one, which has none; of four doses the other two are left to the table."""
    lines = selected.text().splitlines()[:9]
    said = [line.split(":")[0] for line in lines if " on the " in line and "LoRA" in line and line.startswith("CAA")]
    names = ("the positive LoRA", "the negative LoRA")
    assert [x.partition(" on ")[2] for x in said] == [x for name in names for x in (f"{name} x0.25", name)]
    weak = {"lora_sft_positive": (1.0, 1.5), "lora_sft_negative": (1.0, 0.25)}
    lines = make_report(_run(tmp_path, split="test", doses=weak)).text().splitlines()
    full, more = (x for x in lines if " on the positive LoRA" in x)
    assert full.startswith("CAA +1 on the positive LoRA: no room") and "x1.5: no room" in more
    arms = [line.split("  ")[1] for line in lines if line.startswith("  lora_sft")]
    assert arms[:4] == ["lora_sft_positive", "lora_sft_positive x1.5", "lora_sft_negative x0.25", "lora_sft_negative"]


def test_the_recipe_gives_every_arm_that_is_tuned_the_same_tries() -> None:
    """As many multipliers a direction as doses of a finetune, on the selection split."""
    recipe = load_recipe("match_doses")
    up = [m for m in recipe.sections["caa"].multipliers if m > 0]
    assert recipe.args.split == "selection"
    assert len(up) == len(recipe.sections["lora_sft"].doses) == len(recipe.sections["caa"].multipliers) / 2


def _run(root: Path, *, split: str = "selection", overrides: Any = (), **changes: Any) -> Path:
    settings = {"items": N, "bases": BASES, "doses": LORA, "vectors": ("caa",)} | changes
    return simulate(root / "runs" / "compare" / "refusal", overrides=[f"split={split}", *overrides], **settings)


def _lost(report: Report) -> float:
    """What CAA +1 costs."""
    own = report.shifts[(report.shifts["evaluator"] == "capability") & (report.shifts["base"] == "none")]
    return -float(own[own["multiplier"] == 1.0]["total_p"].item())


def _scores(folder: Path) -> dict[str, pd.DataFrame]:
    """cell -> log-odds and p by item, both orders averaged; items in error left out."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "cell" in row and row["error"] is None]
    odds = np.array([row["logits"][row["matching"]] - row["logits"][1 - row["matching"]] for row in rows])
    frame = pd.DataFrame({"cell": [r["cell"] for r in rows], "item": [r["item"] for r in rows]})
    frame = frame.assign(y=odds, p=1 / (1 + np.exp(-odds)))
    return {cell: part.groupby("item")[["y", "p"]].mean() for cell, part in frame.groupby("cell")}


def _unchanged(folder: Path) -> dict[str, str]:
    """evaluator -> the unchanged model's cell."""
    cells = json.loads((folder / "manifest.json").read_text())["facts"]["cells"]
    return {cell["evaluator"]: cell["key"] for cell in cells if cell["base"] == "none" and not cell["multiplier"]}


def _pair(column: str, line: pd.Series, scores: dict[str, pd.DataFrame], plain: dict[str, Any]) -> tuple[Any, Any]:
    """The two sides of a difference, by item; None for a number that is none."""
    if column == "total_p":
        return scores[line["capability_cell"]]["p"], plain["capability"]["p"]
    if column not in ("total", "target", "gap"):
        return None, None
    own, unchanged = scores[line["cell"]]["y"], plain["answer_probability"]["y"]
    target = scores[line["target_cell"]]["y"] if "target_cell" in line else None
    return {"total": (own, unchanged), "target": (target, unchanged), "gap": (own, target)}[column]
