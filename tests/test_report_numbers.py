"""Every number of report.html, recomputed from the rows of the run."""

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
from report_page import PageReader, Shown
from report_runs import simulate

from caa_bench.analysis.answers import answer_scores, answer_table
from caa_bench.analysis.cells import cell_table, shift_table
from caa_bench.analysis.effects import open_effects
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.frames import grouped
from caa_bench.analysis.items import item_scores
from caa_bench.analysis.metrics import metric_table
from caa_bench.analysis.reliability import item_reliability, reliability_table
from caa_bench.analysis.stacking import stacking_table
from caa_bench.report import write_report

RISE = {("none", 1.0): 0.6, ("none", -1.0): 0.1, ("lora_sft_negative", 0.0): 0.9, ("lora_sft_negative", 1.0): math.nan}
Scores = dict[str, dict[str, tuple[float, float, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, with two cells in error and a batch that never came: numbers, n/a and gaps."""
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


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of the first run."""
    return _tables(folder)


PLACEBOS = {"random": "caa", "shuffled": "caa"}


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables, computed anew from the rows as JSON lines, without the report or the store."""
    manifest = json.loads((folder / "manifest.json").read_text())
    every = [row for line in (folder / "rows.jsonl").read_text().splitlines() if "cell" in (row := json.loads(line))]
    said, read = ([row for row in every if name in row] for name in ("text", "metric"))
    frame = pd.DataFrame([row for row in every if "letters" in row])
    logits = pd.DataFrame([x or [math.nan, math.nan] for x in frame.pop("logits")], columns=["logit_0", "logit_1"])
    frame = pd.concat([frame, logits], axis=1)
    frame["log_z"] = frame["log_z"].astype(float)
    listed = pd.DataFrame(manifest["facts"]["cells"]).rename(columns={"key": "cell"}).set_index("cell")
    worded, plain = (listed[listed["evaluator"] == name] for name in ("open_ended", "perplexity"))
    cells = listed.drop([*worded.index, *plain.index])
    how = Resampling(draws=manifest["recipe"]["draws"])
    metrics = metric_table(read, plain, how=how).set_index(["cell", "task", "metric"])
    items = item_scores(frame)
    groups = grouped(items, cells)
    levels = cell_table(groups, how=how)
    scores = answer_scores(said, [[float(row["text"].split()[-1]) for row in said]])  # what the simulated judge reads
    judged = grouped(scores, worded)
    answers = answer_table(judged, judge="grammar", how=how)
    return {
        "items": items.set_index(["cell", "item"]),
        "cells": pd.concat([levels, answers] if said else [levels]).set_index("cell"),
        "shifts": shift_table(groups, how=how).set_index("cell"),
        "stacking": stacking_table(groups, how=how, placebos=PLACEBOS, in_words=open_effects(judged, how=how)),
        "reliability": reliability_table(groups, how=how),
        "metrics": metrics,
        "item_reliability": item_reliability(groups),
    }


def test_every_number_is_what_its_key_says(read: PageReader, tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """All keyed numbers, the intervals among them, against the tables computed anew."""
    assert len(read.shown) > 1500
    _check_values(read, tables, folder)


def test_every_number_of_answers_in_words_is_what_its_key_says(spoken: Path) -> None:
    """The same where a judge scored them: levels, shifts, totals, effects beside the A/B effects."""
    read = PageReader((spoken / "report.html").read_text())
    columns = {one.column for one in read.shown}
    assert columns >= {"score", "score_shift", "score_total_low", "open_ended_on_top_high", "open_ended_n"}
    _check_values(read, _tables(spoken), spoken)
    for one in read.shown:
        if one.value is not None and ":" not in one.text:
            _check_text(one)
    for section in ("answer", "arms", "stacks"):
        assert "opposite in words" in read.loose[section], section


def _check_values(read: PageReader, tables: dict[str, pd.DataFrame], folder: Path) -> None:
    for one in read.shown:
        expected = _expected(one, tables, folder)
        if math.isnan(expected):
            assert one.value is None, one
            assert one.text == "n/a", one
        else:
            assert one.value is not None, one
            assert one.value == pytest.approx(expected, rel=1e-8, abs=1e-12), one


def test_every_text_is_its_value_rounded(read: PageReader) -> None:
    """What is shown and the exact value beside it agree to the digits shown."""
    for one in read.shown:
        if one.value is not None and ":" not in one.text:  # a chart's mark has a sentence for a title
            _check_text(one)


def test_points_agree_with_plain_arithmetic(read: PageReader, folder: Path) -> None:
    """p, log-odds, mass, shifts, effects and retention from the raw logits with nothing but means and differences."""
    manifest = json.loads((folder / "manifest.json").read_text())
    by_key = {cell["key"]: cell for cell in manifest["facts"]["cells"] if cell["evaluator"] == "answer_probability"}
    places = {_place(cell): key for key, cell in by_key.items()}
    scores = _scores(folder)
    checked: dict[str, int] = defaultdict(int)
    for one in read.shown:
        if one.value is None or "item" in one.keys:
            continue
        found = None
        if one.keys.get("cell") and one.column in ("p_balanced", "log_odds", "option_mass", "shift", "total"):
            found = _cell_number(one, scores, places=places, cell=by_key[one.keys["cell"]])
        elif "line" in one.keys and one.column in ("alone", "on_top", "interaction", "retention"):
            found = _line_number(one, scores, places=places)
        if found is not None:
            assert one.value == pytest.approx(found, rel=1e-8, abs=1e-10), one
            checked[one.column] += 1
    assert min(checked.values()) >= 8, dict(checked)
    assert len(checked) == 9, dict(checked)


def test_perplexities_agree_with_plain_arithmetic(read: PageReader, folder: Path) -> None:
    """exp(-sum of log p / sum of tokens), and the ratio of two over the passages that both have."""
    manifest, found = json.loads((folder / "manifest.json").read_text()), _perplexities(folder)
    by_key = {cell["key"]: cell for cell in manifest["facts"]["cells"] if cell["evaluator"] == "perplexity"}
    places = {_place(cell): key for key, cell in by_key.items()}
    checked: dict[str, int] = defaultdict(int)
    for one in read.shown:
        if "metric" not in one.keys or one.value is None or one.column not in ("value", "shift", "total"):
            continue
        cell = by_key[one.keys["metric"].split("|")[0]]
        base = cell["base"] if one.column == "shift" else "none"
        own, other = found[cell["key"]], found[places[base, "", None, 0.0]]
        items = own.keys() if one.column == "value" else own.keys() & other.keys()
        level = sum(own[item][0] for item in items) / sum(own[item][1] for item in items)
        if one.column != "value":
            level -= sum(other[item][0] for item in items) / sum(other[item][1] for item in items)
        assert one.value == pytest.approx(math.exp(-level), rel=1e-8), one
        checked[one.column] += 1
    # every base alone and at both doses of the leading layer, without the one in error
    assert checked == {"value": 17, "shift": 17, "total": 17}


def test_no_measured_number_stands_outside_a_key(read: PageReader) -> None:
    """The answer and the tables hold no decimal without a key, but for doses; counts and names are no measurements."""
    for section in ("answer", "arms", "stacks", "items", "letters", "cells", "costs", "vectors", "perplexity"):
        text = re.sub(r"\(\.?\d*\.\d+ → \d*\.\d+\)", "", read.loose[section])  # a verdict's own words: log-odds only
        loose = re.findall(r"(?<![\w.])[+−-]?\d*\.\d+", text)
        assert [x for x in loose if x not in (".5", "−0.5", "+0.5")] == [], section


def test_what_is_missing_is_said_and_never_zero(read: PageReader, folder: Path) -> None:
    """A failed cell is n/a wherever it is used; the page leads with what is missing."""
    failed = [cell["key"] for cell in json.loads((folder / "manifest.json").read_text())["facts"]["cells"]][3]
    levels = [one for one in read.shown if one.keys.get("cell") == failed and one.column == "p_balanced"]
    assert levels
    assert all(one.text == "n/a" for one in levels)
    assert "1 of 12 batches are missing" in read.loose["warnings"]
    assert "answers in 4 cells are errors" in read.loose["warnings"]


def _expected(one: Shown, tables: dict[str, pd.DataFrame], folder: Path) -> float:
    """The value that a keyed number must have."""
    keys = one.keys
    if "vector" in keys:
        vector, layer = keys["vector"].split("|")
        kept = json.loads((folder / "manifest.json").read_text())["facts"]["diagnostics"][vector][int(layer)]
        if one.column == "relative_norm":
            return float(kept["norm"] / kept["residual_norm"])
        return math.nan if kept[one.column] is None else float(kept[one.column])
    if "artifact" in keys:
        artifact = next((folder.parent.parent / "artifacts").glob(f"{keys['artifact']}-*[0-9]"))
        return float(sum(file.stat().st_size for file in artifact.iterdir()))
    if "item" in keys:
        if "curve" in keys:
            part = tables["item_reliability"]
            part = part[(part["item"] == keys["item"]) & (_curve_keys(part) == keys["curve"])]
            return float(part[one.column].item())
        scores = tables["items"]
        place = (keys["cell"], keys["item"])
        return float(scores.loc[place, one.column]) if place in scores.index else math.nan
    if "metric" in keys:
        return float(tables["metrics"].loc[tuple(keys["metric"].split("|")), one.column])
    if "line" in keys and one.column in tables["stacking"] and one.column not in ("p_balanced", "option_mass"):
        part = tables["stacking"]
        lines = _curve_keys(part) + "|" + part["multiplier"].map("{:+g}".format)
        return float(part[lines == keys["line"]][one.column].item())
    if "curve" in keys:
        part = tables["reliability"]
        return float(part[_curve_keys(part) == keys["curve"]][one.column].item())
    table = "shifts" if one.column.split("_")[0] in ("shift", "total") else "cells"
    return float(tables[table].loc[keys["cell"], one.column])


def _curve_keys(part: pd.DataFrame) -> pd.Series:
    return part["base"] + "|" + part["vector"] + "|" + part["layer"].map("{:.0f}".format)


def _check_text(one: Shown) -> None:
    text, value = one.text.replace("−", "-"), float(one.value if one.value is not None else math.nan)
    if text[0] in "<>":
        edge = float(text[1:])
        assert (0 < value < edge) if text[0] == "<" else (edge < value < 1), one
    elif text.endswith("%"):
        assert float(text[:-1]) == pytest.approx(100 * value, abs=0.51), one
    elif text.endswith("B"):
        number, unit = text.split()
        scale = {"B": 1, "kB": 1e3, "MB": 1e6}[unit]
        assert float(number) * scale == pytest.approx(value, abs=0.51 * scale), one
    else:
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(value, abs=0.51 * 10**-digits), one


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


def _cell_number(one: Shown, scores: Scores, *, places: dict[Any, str], cell: dict[str, Any]) -> float:
    own = scores[cell["key"]]
    if one.column in ("shift", "total"):
        base = cell["base"] if one.column == "shift" else "none"
        other = scores[places[base, "", None, 0.0]]
        return float(np.mean([own[item][0] - other[item][0] for item in own.keys() & other.keys()]))
    which = ("log_odds", "p_balanced", "option_mass").index(one.column)
    return float(np.mean([score[which] for score in own.values()]))


def _perplexities(folder: Path) -> dict[str, dict[str, tuple[float, int]]]:
    """cell -> passage -> (log-probability, tokens), of those that have one."""
    found: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("metric") == "perplexity" and row["value"] is not None:
            found[row["cell"]][row["item"]] = (row["value"], row["weight"])
    return found


def _line_number(one: Shown, scores: Scores, *, places: dict[Any, str]) -> float:
    base, vector, layer, dose = one.keys["line"].split("|")
    steer = (vector, int(layer), float(dose))
    cells = [places["none", "", None, 0.0], places["none", *steer], places[base, "", None, 0.0], places[base, *steer]]
    none, lone, still, both = (scores.get(cell, {}) for cell in cells)
    items = none.keys() & lone.keys() & still.keys() & both.keys()
    if one.column == "on_top" and not lone:  # A is not there, T still is
        items = still.keys() & both.keys()
        return float(np.mean([np.sign(float(dose)) * (both[i][0] - still[i][0]) for i in items]))
    alone = np.sign(float(dose)) * np.array([lone[i][0] - none[i][0] for i in items])
    on_top = np.sign(float(dose)) * np.array([both[i][0] - still[i][0] for i in items])
    named = {"alone": alone.mean(), "on_top": on_top.mean(), "interaction": (on_top - alone).mean()}
    return float(named.get(one.column, on_top.mean() / alone.mean()))
