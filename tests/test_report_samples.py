"""samples.csv, answers.csv and the JSON of the page's viewer: each line follows from the rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from answer_runs import add_answers
from report_runs import simulate

from caa_bench.benchmark import Benchmark
from caa_bench.recipe import load_recipe
from caa_bench.report import make_report, write_report
from caa_bench.report.sections.samples import embedded, viewer
from caa_bench.runs.folder import RowStore

BASES = ("none", "system_prompt_positive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases with one cell in error, and answers in words."""
    run = tmp_path_factory.mktemp("samples") / "runs" / "compare" / "refusal"
    simulate(run, items=24, bases=BASES, vectors=("caa", "random"), failed=(3,))
    judge = {"name": "grammar", "settings": {}}
    add_answers(run, lambda cell, n: 0.5 + 0.1 * cell["multiplier"], questions=["?"] * 20, judge=judge)
    write_report(run)
    return run


def _facts(folder: Path) -> dict[str, dict[str, object]]:
    cells = json.loads((folder / "manifest.json").read_text())["facts"]["cells"]
    return {cell["key"]: cell for cell in cells}


def test_a_line_an_item_and_condition_by_hand(folder: Path) -> None:
    """p and log-odds from the raw logits; a line in error has none."""
    table = pd.read_csv(folder / "samples.csv").set_index(["cell", "item"])
    assert len(table) == 24 * 2 * (1 + 2 * 4)
    odds: dict[tuple[str, str], list[float]] = {}
    failed = set()
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "letters" in row and row["error"] is None:
            own = row["logits"][row["matching"]] - row["logits"][1 - row["matching"]]
            odds.setdefault((row["cell"], row["item"]), []).append(own)
        elif "letters" in row:
            failed.add((row["cell"], row["item"]))
    assert len(odds) + len(failed) == len(table) and len(failed) == 24
    for key, both in odds.items():
        assert table.loc[key, "log_odds"] == pytest.approx(sum(both) / 2, rel=1e-7)
        assert table.loc[key, "p_balanced"] == pytest.approx(sum(1 / (1 + math.exp(-y)) for y in both) / 2, rel=1e-7)
    assert table.loc[sorted(failed), "p_balanced"].isna().all()
    for cell, own in table.groupby("cell"):
        assert set(own["base"]) == {_facts(folder)[cell]["base"]}
        assert set(own["multiplier"]) == {_facts(folder)[cell]["multiplier"]}


def test_a_line_an_answer(folder: Path) -> None:
    table = pd.read_csv(folder / "answers.csv")
    assert len(table) == 20 * 2 * (1 + 2 * 4)
    assert (table["text"] == "my score is " + table["score"].map("{:.4f}".format)).all()
    assert table["score"].to_numpy() == pytest.approx(0.5 + 0.1 * table["multiplier"])
    assert not table["collapsed"].any()


def test_the_viewer_holds_the_conditions_that_lead(folder: Path) -> None:
    """No placebo; an unknown p is null and never 0; an item flips where p crosses .5 against its own base alone."""
    shown = viewer(make_report(folder))
    assert [x["dose"] for x in shown["conditions"]][:5] == ["CAA -1", "CAA -0.5", "alone", "CAA +0.5", "CAA +1"]
    assert len(shown["conditions"]) == len(shown["spoken"]) == 10 and len(shown["items"]) == 24
    table = pd.read_csv(folder / "samples.csv").set_index(["cell", "item"])["p_balanced"]
    for item in shown["items"]:
        for p, condition in zip(item["p"], shown["conditions"], strict=True):
            value = table[(condition["cell"], item["id"])]
            assert p is None if math.isnan(value) else p == pytest.approx(value, abs=6e-5)
        known = [(p, item["p"][x["own"]]) for p, x in zip(item["p"], shown["conditions"], strict=True) if p is not None]
        far = [(p, other) for p, other in known if other is not None and abs(p - other) >= 0.05]
        assert item["flips"] == any((p - 0.5) * (other - 0.5) < 0 for p, other in far)
        assert item["question"] == "" and item["matching"] is None
    assert any(p is None for item in shown["items"] for p in item["p"])


def test_what_is_too_large_is_cut_and_counted(folder: Path) -> None:
    shown = viewer(make_report(folder))
    assert len(embedded(shown)) < 500_000
    small = embedded(shown, most=12_000)
    kept = json.loads(small)
    assert len(small) <= 12_000 and kept["most"] == [24, 20]
    assert 0 < len(kept["items"]) < 24 and kept["items"] == json.loads(embedded(shown))["items"][: len(kept["items"])]


def test_no_text_ends_the_element() -> None:
    hostile = "</script><!-- & 'x' \u2028"
    text = embedded({"items": [], "questions": [{"question": hostile}]})
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text)["questions"] == [{"question": hostile}]


def test_a_run_keeps_the_texts_of_its_items(tmp_path: Path) -> None:
    """Of those that were asked, in the given order of the options; the report needs no data."""
    overrides = [
        "behavior=refusal",
        "limit=6",
        "bases=[none]",
        "vectors=[caa]",
        "report_to=[]",
        f"output_dir={tmp_path}",
    ]
    run = Benchmark.from_recipe(load_recipe(None, overrides))
    report = run.compare().report()
    texts = report.record.texts
    items = {item.id: item for item in run.behavior.test[:6]}
    assert list(texts)[:6] == list(items)
    assert len(texts) == 12 and all(name.startswith("own/") for name in list(texts)[6:]), "the plain facts too"
    for name, item in items.items():
        assert texts[name]["options"] == list(item.options) and texts[name]["matching"] == item.matching
        assert texts[name]["question"] and texts[name]["question"] in item.question
        assert "(A)" not in texts[name]["question"] and "Choices" not in texts[name]["question"]
    page = (report.folder / "report.html").read_text()
    assert next(iter(items.values())).options[0].replace("'", "&#39;") in page or items["test/0000"].options[0] in page


def test_the_viewer_has_the_texts_of_items_that_do_not_lead(tmp_path: Path) -> None:
    """A number of the capability leads to what was asked, where the run kept it, within the page's size."""
    run = simulate(tmp_path / "run", loss={}, vectors=("caa",), items=24)
    fact = next(row["item"] for row in RowStore(run / "rows.jsonl").rows() if row["item"].startswith("own/"))
    file = run / "manifest.json"
    recorded = json.loads(file.read_text())
    text = {"question": "What is the capital of France?", "options": ["Paris", "Lyon"], "matching": 0}
    recorded["facts"]["texts"] = {fact: text, "elsewhere": text}
    file.write_text(json.dumps(recorded))
    shown = viewer(make_report(run))
    assert shown["texts"] == {fact: text} and fact in shown["asked"]["capability"]
    assert json.loads(embedded(shown))["texts"] == {fact: text}
    assert json.loads(embedded(shown, most=3_000))["texts"] == {}
