"""`caa-bench report --published`: the paper's numbers as shipped, joined by item, and what they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from published import BEHAVIORS, DATA, needs_data
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.analysis.published import KEYS, load_published
from caa_bench.behavior import load_behavior
from caa_bench.items import text_key

REFERENCE = DATA.parents[1] / "reference" / "caa_published.csv"
PAPER = ("model=llama2-7b-chat", "protocol=caa", "data=caa", "caa.layers=[13]")
SURVIVAL = load_published().items["survival-instinct"]


def run(folder: Path, *overrides: str, texts: tuple[str, ...] | None = SURVIVAL, **changes: Any) -> Path:
    """A simulated run with the paper's settings and items."""
    settings = {"behavior": "survival-instinct", "items": 50, "layers": (13,), "vectors": ("caa",)} | changes
    simulate(folder, overrides=[*PAPER, *overrides], **settings)
    if texts is not None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["facts"]["items"] = {f"test/{n:04d}": key for n, key in enumerate(texts)}
        path.write_text(json.dumps(manifest))
    return folder


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["report", "--published", str(folder)]) == 2
    assert not (folder / "published.csv").exists()
    return capsys.readouterr().err.splitlines()


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs the collected numbers at {REFERENCE}")
def test_every_shipped_number_is_the_published_one() -> None:
    """Each at the best precision that the paper's repository has, and every A/B number of it is there."""
    theirs = pd.read_csv(REFERENCE).query("eval == 'ab'")
    theirs["model"] = theirs["model"].map({"7b": "llama2-7b-chat", "13b": "llama2-13b-chat"})
    renamed = {"system_": "system_prompt_", "finetune_": "finetune_", "pos": "positive", "neg": "negative"}
    theirs["base"] = theirs["condition"]
    for old, new in renamed.items():
        theirs["base"] = theirs["base"].str.replace(old, new, regex=False)
    ours = load_published().values.merge(theirs, on=KEYS, how="outer", indicator=True)
    assert (ours["_merge"] == "both").all()
    ours["gap"] = (ours["p_published"] - ours["value"]).abs()
    assert ours.groupby(KEYS)["gap"].min().max() <= 5e-7
    assert (ours["gap"] <= 0.005 + 1e-9).all(), "the same number, rounded"


@needs_data
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_the_items_are_those_of_the_published_splits(behavior: str) -> None:
    loaded = load_behavior(behavior, data="caa", data_dir=DATA, protocol="caa", seed=0)
    assert tuple(map(text_key, loaded.test)) == load_published().items[behavior]


def test_published_answers_give_the_published_mean() -> None:
    published = load_published()
    for key, answers in published.answers.items():
        (line,) = published.values[(published.values[KEYS] == list(key)).all(axis=1)].to_dict("records")
        assert set(answers) == set(published.items[line["behavior"]])
        assert sum(answers.values()) / 50 == pytest.approx(line["p_published"], abs=1e-6)


def test_a_run_stands_beside_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "runs" / "paper" / "survival")
    assert main(["report", "--published", str(folder)]) == 0
    said = capsys.readouterr().out
    table = pd.read_csv(folder / "published.csv")
    cells = pd.read_csv(folder / "cells.csv").set_index("cell")
    assert (table["n"] == 50).all()
    assert (table["p_balanced"] - cells.loc[table["cell"], "p_balanced"].to_numpy()).abs().max() < 1e-8
    assert (table["difference"] - (table["p_balanced"] - table["p_published"])).abs().max() < 1e-6
    assert f"{table['agrees'].sum()} of {len(table)} cells agree with arXiv 2312.06681" in said
    assert "a LoRA here, a finetune of every weight there" in said
    assert "system_prompt.layout is 'template' here" in said
    (paired,) = table[table["by_item"]].to_dict("records")
    assert (paired["base"], paired["multiplier"]) == ("none", 1)
    none = table[(table["base"] == "none") & (table["multiplier"] == 0)].iloc[0]
    assert none["p_published"] == pytest.approx(0.338385, abs=1e-6)
    assert none["difference_low"] == pytest.approx(none["p_balanced_low"] - none["p_published"], abs=1e-8)


def test_items_are_joined_by_what_they_ask(tmp_path: Path) -> None:
    """The same answers under the paper's items in another order: the difference item by item is another one."""
    tables = []
    for name, texts in (("given", SURVIVAL), ("turned", SURVIVAL[::-1])):
        folder = run(tmp_path / "runs" / "paper" / name, texts=texts)
        assert main(["report", "--published", str(folder)]) == 0
        tables.append(pd.read_csv(folder / "published.csv").query("by_item").iloc[0])
    assert tables[0]["difference"] == pytest.approx(tables[1]["difference"])
    assert tables[0]["difference_low"] != pytest.approx(tables[1]["difference_low"], abs=1e-4)


def test_what_is_not_comparable_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run(tmp_path / "runs" / "a" / "b", "model=tiny", "protocol=default", "data=own", "split=selection")
    lines = refused(other, capsys)
    assert [line.split(": ", 2)[2].split(" ")[0] for line in lines] == ["model", "protocol", "data", "split"]
    assert all("; " in line or "the paper's" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": (40,)}, "the paper has no number for its layer and doses"),
        ({"texts": (*SURVIVAL[:-1], "0" * 12)}, "1 of 50 items are not the paper's"),
        ({"items": 30}, "asked 30 of the paper's 50 items; run again with limit=null"),
        ({"texts": None}, "does not say which items were asked"),
        ({"behavior": "mine"}, "behavior is 'mine'; the paper's are"),
    ],
)
def test_other_items_and_layers_are_refused(
    changes: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_steered = {"bases": ("none",)} if "layers" in changes else {}
    (line,) = refused(run(tmp_path / "runs" / "paper" / "x", **only_steered, **changes), capsys)
    assert problem in line
