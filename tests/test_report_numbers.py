"""Every number of report.html stands in a CSV beside it, and every number there follows from the rows of the run."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from answer_runs import speak
from report_page import PageReader, check_tables, near
from report_runs import simulate

from caa_bench.report import write_report

RISE = {("none", 1.0): 0.6, ("none", -1.0): 0.1, ("lora_sft_negative", 0.0): 0.9, ("lora_sft_negative", 1.0): math.nan}
Scores = dict[str, dict[str, tuple[float, float, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, with two cells in error and a batch that never came: numbers, n/a and gaps."""
    run = tmp_path_factory.mktemp("numbers") / "runs" / "compare" / "refusal"
    changes: dict[str, Any] = {"layers": (2, 3), "multipliers": (-1.0, 1.0), "vectors": ("caa", "random")}
    write_report(
        simulate(run, items=40, failed=(3, 8), dropped=1, overrides=["caa.layers=[2,3]"], rise=RISE, **changes)
    )
    return run


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with answers in words, which go against the dose."""
    run = tmp_path_factory.mktemp("spoken") / "runs" / "compare" / "refusal"
    simulate(run, items=30, bases=("none", "system_prompt_positive"), multipliers=(-1.0, 1.0), vectors=("caa",))
    speak(run, lambda cell: -0.2 * cell["multiplier"])
    write_report(run)
    return run


@pytest.fixture(scope="module")
def read(folder: Path) -> PageReader:
    """The page."""
    return PageReader((folder / "report.html").read_text())


def test_every_number_of_the_page_is_its_csv_s(folder: Path) -> None:
    """All tables, intervals and n/a among them, to the digits shown."""
    checked = check_tables(folder)
    assert checked.total() > 1500
    files = {source.partition(".")[0] for source in checked}
    assert files >= {"arms", "cells", "shifts", "stacking", "reliability", "items", "vectors", "metrics", "costs"}
    assert "side_effects" in files


def test_every_number_of_answers_in_words_is_its_csv_s(spoken: Path) -> None:
    """The same where a judge scored them: levels, shifts, totals, effects beside the A/B effects."""
    checked = check_tables(spoken)
    wanted = ("cells.score", "cells.score_shift", "cells.score_total", "stacking.open_ended_on_top")
    assert all(checked[source] >= 2 for source in wanted), checked
    read = PageReader((spoken / "report.html").read_text())
    for section in ("answer", "arms", "stacks"):
        assert "opposite in words" in read.loose[section], section


def test_the_csv_files_agree_with_plain_arithmetic(folder: Path) -> None:
    """p, log-odds, mass, shifts, effects and retention from the raw logits with nothing but means and differences."""
    by_key, scores = _cells(folder, "answer_probability"), _scores(folder)
    places = {_place(cell): key for key, cell in by_key.items()}
    checked: dict[str, int] = defaultdict(int)
    for file, columns in (("cells", ("p_balanced", "log_odds", "option_mass")), ("shifts", ("shift", "total"))):
        for line in pd.read_csv(folder / f"{file}.csv").to_dict("records"):
            for column in columns:
                found = _cell_number(column, scores, places=places, cell=by_key[line["cell"]])
                assert line[column] == pytest.approx(found, rel=1e-8, abs=1e-10, nan_ok=True), (line["cell"], column)
                checked[column] += not math.isnan(found)
    for line in pd.read_csv(folder / "stacking.csv").to_dict("records"):
        for column in ("alone", "on_top", "interaction", "retention"):
            if not math.isnan(line[column]):
                found = _line_number(column, line, scores, places=places)
                assert line[column] == pytest.approx(found, rel=1e-8, abs=1e-10), (line["base"], column)
                checked[column] += 1
    assert min(checked.values()) >= 8 and len(checked) == 9, dict(checked)


def test_the_arms_are_lines_of_the_other_tables(folder: Path) -> None:
    """arms.csv gathers; it computes nothing."""
    cells, shifts = (pd.read_csv(folder / f"{name}.csv").set_index("cell") for name in ("cells", "shifts"))
    stacking = pd.read_csv(folder / "stacking.csv").set_index(["base", "vector", "layer", "multiplier"])
    arms = pd.read_csv(folder / "arms.csv")
    assert len(arms) == 6 * 3 and (arms["kind"] == "stack").sum() == 10
    for line in arms.to_dict("records"):
        column = "total" if line["kind"] == "base" else "shift"
        for end in ("", "_low", "_high"):
            same = {"nan_ok": True, "rel": 1e-8}
            assert line[f"p_balanced{end}"] == pytest.approx(cells.loc[line["cell"], f"p_balanced{end}"], **same)
            if line["kind"] != "none":
                assert line[f"shift{end}"] == pytest.approx(shifts.loc[line["cell"], f"{column}{end}"], **same)
        if line["kind"] == "stack":
            own = stacking.loc[(line["base"], "caa", line["layer"], line["multiplier"])]
            assert line["retention"] == pytest.approx(own["retention"], nan_ok=True)
            assert line["verdict"] == own["verdict"]


def test_perplexities_agree_with_plain_arithmetic(folder: Path) -> None:
    """exp(-sum of log p / sum of tokens), and the ratio of two over the passages that both have."""
    by_key, found = _cells(folder, "perplexity"), _perplexities(folder)
    places = {_place(cell): key for key, cell in by_key.items()}
    checked: dict[str, int] = defaultdict(int)
    for line in pd.read_csv(folder / "metrics.csv").to_dict("records"):
        cell = by_key[line["cell"]]
        for column in ("value", "shift", "total"):
            if math.isnan(line[column]):
                continue
            base = cell["base"] if column == "shift" else "none"
            own, other = found[cell["key"]], found[places[base, "", None, 0.0]]
            items = own.keys() if column == "value" else own.keys() & other.keys()
            level = sum(own[item][0] for item in items) / sum(own[item][1] for item in items)
            if column != "value":
                level -= sum(other[item][0] for item in items) / sum(other[item][1] for item in items)
            assert line[column] == pytest.approx(math.exp(-level), rel=1e-8), (line["cell"], column)
            checked[column] += 1
    # six bases alone and at two doses of two layers; at +1 on the negative finetune all passages are in error
    assert checked == {"value": 28, "shift": 28, "total": 28}


def test_each_item_s_p_is_that_of_its_rows(read: PageReader, folder: Path) -> None:
    """The page's item table beside the mean over both orders."""
    scores, checked = _scores(folder), 0
    table = next(table for table in read.tables if any(source.startswith("rows.") for source in table.sources))
    for source in (source for source in table.sources if source.startswith("rows.")):
        for key, text in table.column(source).items():
            score = scores.get(source.removeprefix("rows."), {}).get(key.split("|")[0])
            if score is None:
                assert text == "n/a"
                continue
            sign = text[0] if text[0] in "<>" else ""
            assert near((sign, text.removeprefix(sign), ""), score[1]), (key, text)
            checked += 1
    assert checked >= 40 * 2


def test_no_measured_number_stands_outside_a_table(folder: Path) -> None:
    """Every number of the answer is one of a table's, as it is shown there or as a percentage."""
    answer = PageReader((folder / "report.html").read_text()).loose["answer"]
    arms = pd.read_csv(folder / "arms.csv")
    known = pd.read_csv(folder / "shifts.csv")["total_p"].tolist()
    known += [x for name in ("p_before", "p_balanced", "option_mass") for x in arms[name]]
    shares = re.findall(r"([<>]?)(\d+(?:\.\d+)?)%", answer)
    assert len(shares) > 10
    for sign, digits in shares:
        assert any(near((sign, digits, "%"), value) for value in known) or sign, digits
    for point, low, high in re.findall(r"retention (\d\.\d+) \[(\S+), (\S+)\]", answer):
        wanted = arms[["retention", "retention_low", "retention_high"]].round(2).to_numpy()
        assert (np.abs(wanted - [float(point), float(low), float(high)]) < 0.011).all(axis=1).any()


def test_what_is_missing_is_said_and_never_zero(read: PageReader, folder: Path) -> None:
    """A failed cell is n/a wherever it is used; the page leads with what is missing."""
    failed = [cell["key"] for cell in json.loads((folder / "manifest.json").read_text())["facts"]["cells"]][3]
    texts = [
        table.column(source)[failed]
        for table in read.tables
        for source in table.sources
        if source == "cells.p_balanced" and failed in dict(table.rows)
    ]
    assert texts and set(texts) == {"n/a"}
    assert "1 of 12 batches are missing" in read.loose["grave"]
    assert "answers in 4 cells are errors" in read.loose["grave"]


def _cells(folder: Path, evaluator: str) -> dict[str, dict[str, Any]]:
    cells = json.loads((folder / "manifest.json").read_text())["facts"]["cells"]
    return {cell["key"]: cell for cell in cells if cell["evaluator"] == evaluator}


def _place(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["base"], cell["vector"], cell["layer"], cell["multiplier"]


def _scores(folder: Path) -> Scores:
    """cell -> item -> (log-odds, p, mass), averaged over both orders; an item with an error is left out."""
    asked: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "letters" in row:
            score = (math.nan,) * 3
            if row["error"] is None:
                right, wrong = row["logits"][row["matching"]], row["logits"][1 - row["matching"]]
                mass = (math.exp(right) + math.exp(wrong)) / math.exp(row["log_z"])
                score = (right - wrong, 1 / (1 + math.exp(wrong - right)), mass)
            asked[row["cell"]][row["item"]].append(score)
    means = {cell: {item: tuple(np.mean(x, axis=0)) for item, x in items.items()} for cell, items in asked.items()}
    return {cell: {item: x for item, x in items.items() if not math.isnan(x[0])} for cell, items in means.items()}


def _cell_number(column: str, scores: Scores, *, places: dict[Any, str], cell: dict[str, Any]) -> float:
    own = scores.get(cell["key"], {})
    if not own:
        return math.nan
    if column in ("shift", "total"):
        base = cell["base"] if column == "shift" else "none"
        other = scores[places[base, "", None, 0.0]]
        return float(np.mean([own[item][0] - other[item][0] for item in own.keys() & other.keys()]))
    which = ("log_odds", "p_balanced", "option_mass").index(column)
    return float(np.mean([score[which] for score in own.values()]))


def _perplexities(folder: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """cell -> passage -> (log-probability, tokens), of those that have one."""
    found: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("metric") == "perplexity" and row["value"] is not None:
            found[row["cell"]][row["item"]] = (row["value"], row["weight"])
    return found


def _line_number(column: str, line: dict[str, Any], scores: Scores, *, places: dict[Any, str]) -> float:
    base, dose = line["base"], line["multiplier"]
    steer = (line["vector"], int(line["layer"]), float(dose))
    cells = [places["none", "", None, 0.0], places["none", *steer], places[base, "", None, 0.0], places[base, *steer]]
    none, lone, still, both = (scores.get(cell, {}) for cell in cells)
    items = none.keys() & lone.keys() & still.keys() & both.keys()
    if column == "on_top" and not lone:  # A is not there, T still is
        items = still.keys() & both.keys()
        return float(np.mean([np.sign(float(dose)) * (both[i][0] - still[i][0]) for i in items]))
    alone = np.sign(float(dose)) * np.array([lone[i][0] - none[i][0] for i in items])
    on_top = np.sign(float(dose)) * np.array([both[i][0] - still[i][0] for i in items])
    named = {"alone": alone.mean(), "on_top": on_top.mean(), "interaction": (on_top - alone).mean()}
    return float(named.get(column, on_top.mean() / alone.mean()))
