"""`caa-bench report --published`: the paper's numbers as shipped, joined by item, and what they do not fit.

No model of the paper's size runs here: the runs are simulated answers to the published questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from answer_runs import add_answers
from published import BEHAVIORS, DATA, needs_data
from published_numbers import KINDS, MODELS, NUMBERS, REFERENCE, TARGET, made, rendered
from report_runs import simulate

from caa_bench.__main__ import main
from caa_bench.analysis.published import KEYS, load_published, published_table
from caa_bench.behaviors.behavior import load_behavior
from caa_bench.behaviors.items import set_key, text_key
from caa_bench.evaluators.capability import Capability
from caa_bench.recipe import load_recipe
from caa_bench.report import make_report
from caa_bench.report.published import MAX_NEW_TOKENS

needs_numbers = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"needs the collected numbers at {REFERENCE}")
PAPER = ("model=llama2-7b-chat", "protocol=caa", "data=caa", "caa.layers=[13]")
SURVIVAL = load_published().items["survival-instinct"]


def run(folder: Path, *overrides: str, texts: tuple[str, ...] | None = SURVIVAL, **changes: Any) -> Path:
    """A simulated run with the paper's settings and items."""
    settings = {"behavior": "survival-instinct", "items": 50, "layers": (13,), "vectors": ("caa",)} | changes
    simulate(folder, overrides=[*PAPER, *overrides], **settings)
    if texts is not None:
        record(folder, items={f"test/{n:04d}": key for n, key in enumerate(texts)})
    return folder


def record(folder: Path, **facts: Any) -> None:
    """Facts as `compare` leaves them in the manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["facts"] |= facts
    path.write_text(json.dumps(manifest))


def compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, pd.DataFrame]:
    """What is printed, and published.csv."""
    assert main(["report", "--published", str(folder)]) == 0
    return capsys.readouterr().out, pd.read_csv(folder / "published.csv", keep_default_na=False, na_values=[""])


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["report", "--published", str(folder)]) == 2
    assert not (folder / "published.csv").exists()
    return capsys.readouterr().err.splitlines()


@needs_numbers
def test_every_shipped_number_is_a_published_one_and_every_published_one_is_shipped() -> None:
    """Beside the files themselves, whatever tests/published_numbers.py does: to half a unit of the last digit."""
    theirs = pd.concat([pd.read_csv(REFERENCE / name) for name in NUMBERS], ignore_index=True)
    assert len(theirs) == 1349
    ours = load_published().values
    shipped: dict[tuple[Any, ...], list[float]] = {}
    for line in ours.to_dict("records"):
        scale = 10 if line["kind"] == "open_ended" else 1
        shipped.setdefault(tuple(line[key] for key in KEYS), []).append(line["published"] * scale)
    seen: dict[tuple[Any, ...], list[float]] = {}
    for line in theirs.to_dict("records"):
        key = key_of(line)
        assert key in shipped, key
        digits = next((int(part[0]) for part in line["unit"].split("_") if part.endswith("dp")), 6)
        gap = min(abs(value - line["value"]) for value in shipped[key])
        assert gap <= 0.5 * 10**-digits + 1e-9, line
        seen.setdefault(key, []).append(line["value"])
    assert shipped.keys() == seen.keys()
    for key, values in shipped.items():
        assert all(min(abs(value - one) for one in seen[key]) <= 5e-7 for value in values)
    counts = ours.groupby("kind").size().to_dict()
    assert counts == {
        "ab": 704,
        "base_to_chat_transfer": 192,
        "layer_transfer": 124,
        "mmlu": 70,
        "open_ended": 145,
        "truthfulqa": 6,
    }


def key_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """A line of the collected numbers as `KEYS`; at 13 the vector of layer 13 is the layer's own."""
    condition, layer = line["condition"], line["layer"]
    kind, base, source, model = KINDS[line["eval"]], "none", layer, ""
    if condition == "layer_transfer_vector_from_13":
        source, kind = 13, kind if layer == 13 else "layer_transfer"
    elif condition == "base_to_chat_vector_Llama-2-7b-hf":
        model, kind = "llama2-7b-base", "base_to_chat_transfer"
    elif condition != "none":
        what, side = condition.split("_")
        base = {"system": "system_prompt", "finetune": "finetune"}[what]
        base += {"pos": "_positive", "neg": "_negative"}[side]
    named = (kind, MODELS[line["model"]], line["behavior"], base)
    return (*named, model, float(source), float(layer), float(line["multiplier"]))


@needs_numbers
@needs_data
def test_the_shipped_file_is_what_its_script_makes() -> None:
    assert TARGET.read_text() == rendered(made())
    assert TARGET.stat().st_size < 52_000


@needs_data
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_the_items_are_those_of_the_published_splits(behavior: str) -> None:
    loaded = load_behavior(behavior, data="caa", data_dir=DATA, protocol="caa", seed=0)
    assert tuple(map(text_key, loaded.test)) == load_published().items[behavior]


def test_published_answers_give_the_published_mean() -> None:
    published = load_published()
    for key, answers in published.answers.items():
        named = ["model", "behavior", "base", "layer", "multiplier"]
        values = published.values[published.values["kind"] == "ab"]
        (line,) = values[(values[named] == list(key)).all(axis=1)].to_dict("records")
        assert set(answers) == set(published.items[line["behavior"]])
        assert sum(answers.values()) / 50 == pytest.approx(line["published"], abs=1e-6)


def test_a_run_stands_beside_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "runs" / "paper" / "survival")
    said, table = compared(folder, capsys)
    cells = make_report(folder).cells.set_index("cell")
    assert (table["n"] == 50).all()
    assert (table["kind"] == "ab").all()
    assert (table["level"] - cells.loc[table["cell"], "p_balanced"].to_numpy()).abs().max() < 1e-8
    assert (table["difference"] - (table["level"] - table["published"])).abs().max() < 1e-6
    assert "Beside arXiv 2312.06681" in said
    assert f"A/B test, p(matching): {table['agrees'].sum()} of {len(table)} cells agree" in said
    assert "a LoRA here, a finetune of every weight there" in said
    assert "system_prompt.layout is 'template' here" in said
    (paired,) = table[table["by_item"]].to_dict("records")
    assert (paired["base"], paired["multiplier"]) == ("none", 1)
    none = table[(table["base"] == "none") & (table["multiplier"] == 0)].iloc[0]
    assert none["published"] == pytest.approx(0.338385, abs=1e-6)
    assert none["difference_low"] == pytest.approx(none["level_low"] - none["published"], abs=1e-8)


def test_items_are_joined_by_what_they_ask(tmp_path: Path) -> None:
    """The same answers under the paper's items in another order: the difference item by item is another one."""
    tables = []
    for name, texts in (("given", SURVIVAL), ("turned", SURVIVAL[::-1])):
        folder = run(tmp_path / "runs" / "paper" / name, texts=texts)
        assert main(["report", "--published", str(folder)]) == 0
        tables.append(pd.read_csv(folder / "published.csv").query("by_item").iloc[0])
    assert tables[0]["difference"] == pytest.approx(tables[1]["difference"])
    assert tables[0]["difference_low"] != pytest.approx(tables[1]["difference_low"], abs=1e-4)


def test_errors_that_cancel_in_the_mean_do_not_agree() -> None:
    """Half of the items .1 too high and half .1 too low: the mean is the paper's, the answers are not."""
    published = load_published()
    ((key, answers),) = list(published.answers.items())[:1]
    at = dict(zip(("model", "behavior", "base", "layer", "multiplier"), key, strict=True))
    line = at | {"cell": "a", "kind": "ab", "vector_model": "", "vector_layer": at["layer"], "base_dose": 1.0, "n": 50}
    values = np.array(list(answers.values()))
    agrees = []
    for error in (np.zeros(50), np.where(np.arange(50) % 2, 0.1, -0.1)):
        p = values + error
        cells = pd.DataFrame([line | {"level": p.mean(), "level_low": p.mean() - 0.1, "level_high": p.mean() + 0.1}])
        for end in ("", "_low", "_high"):
            cells[f"change{end}"] = np.nan
        items = pd.DataFrame({"cell": "a", "item": list(answers), "cluster": list(answers), "p_balanced": p})
        table = published_table(published, cells, items, texts={name: name for name in answers})
        agrees.append(bool(table["agrees"].iloc[0]))
        assert table["by_item"].iloc[0] and table["item_gap"].iloc[0] == pytest.approx(np.abs(error).mean())
    assert agrees == [True, False]


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


SYCOPHANCY = load_published().items["sycophancy"]
TRANSFER = {"behavior": "sycophancy", "texts": SYCOPHANCY, "bases": ("none",), "multipliers": (-1.0, 1.0)}


@pytest.mark.parametrize(
    ("kind", "title", "changes", "lines"),
    [
        ("layer_transfer", "Layer transfer", {"vector_layer": 13, "layers": (10, 13, 16)}, 4),
        ("base_to_chat_transfer", "Base-to-chat transfer", {"vector_model": "llama2-7b-base", "layers": (10, 13)}, 4),
        ("base_to_chat_transfer", "Base-to-chat transfer", {"vector_model": "meta-llama/Llama-2-7b-hf"}, 2),
    ],
)
def test_a_transferred_vector_stands_beside_its_own_numbers(
    kind: str,
    title: str,
    changes: dict[str, Any],
    lines: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And never beside those of the layer's own vector; the model itself, and layer 13 at 13, are no transfer."""
    said, table = compared(run(tmp_path / "runs" / "paper" / "x", **(TRANSFER | changes)), capsys)
    moved = table[table["kind"] == kind]
    assert len(moved) == lines
    published = load_published().values.set_index(KEYS)["published"]
    for line in table.fillna({"vector_model": ""}).to_dict("records"):
        assert line["published"] == published[tuple(line[key] for key in KEYS)]
    taken = "with the vector of layer 13" if kind == "layer_transfer" else "with the base model's vector"
    assert f"{title}, p(matching) {taken}: {moved['agrees'].sum()} of {lines} cells agree" in said
    own = table[table["kind"] == "ab"]
    assert len(own) == (3 if kind == "layer_transfer" else 1), "0, and what was taken where it is added"
    assert not moved["cell"].isin(own["cell"]).any()


@cache
def questions(source: str) -> tuple[tuple[str, ...], str]:
    """Ids of the published questions, and the key that `compare` records of them."""
    evaluator = Capability(Capability.Config(source=source), data_dir=DATA)
    items = evaluator.items(load_behavior("refusal"), split="test")
    return tuple(item.id for item in items), set_key(map(text_key, items))


def asking(folder: Path, source: str, *, key: str | None = None, limit: int | None = None, **changes: Any) -> Path:
    """A run on sycophancy that asked the published MMLU or TruthfulQA questions too."""
    ids, own = questions(source)
    more = {"loss": {("none", 1.0): 0.4}, "facts_asked": ids[:limit]}
    settings = TRANSFER | {"multipliers": (-1.0, 1.0)} | more | changes
    run(folder, f"capability.source={source}", **settings)
    record(folder, asked={"capability": {"n": len(ids), "key": own if key is None else key}})
    return folder


@needs_data
@pytest.mark.parametrize(("source", "title", "n"), [("mmlu", "MMLU", 570), ("truthfulqa", "TruthfulQA", 817)])
def test_capability_stands_beside_the_paper(
    source: str, title: str, n: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unweighted mean over categories, which for TruthfulQA is another number than that over questions."""
    folder = asking(tmp_path / "runs" / "paper" / "x", source)
    said, table = compared(folder, capsys)
    asked = table[table["kind"] == source].set_index("multiplier")
    assert asked.index.tolist() == [-1, 0, 1]
    assert (asked["n"] == n).all()
    values = load_published().values
    theirs = values[(values["kind"] == source) & (values["behavior"] == "sycophancy") & (values["layer"] == 13)]
    known = theirs.set_index("multiplier")["published"]
    assert (asked["published"] == known[asked.index]).all()
    answers = pd.read_json(folder / "rows.jsonl", lines=True)
    answers = answers[answers["item"].astype(str).str.startswith(source)]
    logits, right = np.array(answers["logits"].tolist()), answers["matching"].to_numpy(int)
    p = 1 / (1 + np.exp(logits[range(len(logits)), 1 - right] - logits[range(len(logits)), right]))
    kinds = answers.assign(p=p, kind=answers["item"].str.rpartition("/")[0]).groupby(["cell", "kind"])["p"].mean()
    for line in asked.to_dict("records"):
        assert line["level"] == pytest.approx(kinds[line["cell"]].mean(), abs=1e-6)
    assert (asked["difference"] - (asked["level"] - asked["published"])).abs().max() < 1e-6
    assert f"{title}, p(correct): {asked['agrees'].sum()} of 3 cells agree" in said
    assert "A/B test, p(matching): " in said, "the behavior beside it, not mixed up with it"


@needs_data
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"key": "0" * 16}, "truthfulqa: its 817 questions are not the paper's 817 (text or key differs)"),
        ({"limit": 100}, "truthfulqa: asked 100 of the paper's 817 questions; run again with limit=null"),
    ],
)
def test_other_questions_are_refused(
    changes: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refused(asking(tmp_path / "runs" / "paper" / "x", "truthfulqa", **changes), capsys)
    assert problem in line


def test_own_facts_are_no_paper_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They do not stand in the way of the A/B numbers either."""
    said, table = compared(run(tmp_path / "runs" / "paper" / "x", loss={}), capsys)
    assert (table["kind"] == "ab").all()
    assert "capability.source is 'own'; the paper asked 'mmlu' and 'truthfulqa'" in said


GPT4 = {"name": "api", "settings": {"model": "gpt-4-0613"}}
CLASSIFIER = {"name": "classifier", "settings": {}}
DOSES = (-2.0, -1.0, 1.0, 2.0)


@cache
def open_questions() -> tuple[str, ...]:
    loaded = load_behavior("hallucination", data="caa", data_dir=DATA)
    return tuple(one.question for one in loaded.open_ended)


def speaking(folder: Path, *, judge: dict[str, Any], asked: int | None = None, other: str = "") -> Path:
    """A run on hallucination whose answers score what the paper's did, a little higher for some questions."""
    texts = load_published().items["hallucination"]
    settings = {"behavior": "hallucination", "texts": texts, "bases": ("none", "lora_sft_positive")}
    run(folder, "open_ended.max_new_tokens=60", multipliers=DOSES, recipe="open_ended", **settings)
    values = load_published().values
    values = values[(values["kind"] == "open_ended") & (values["behavior"] == "hallucination")]
    theirs = values[values["model"] == "llama2-7b-chat"].drop_duplicates(["base", "multiplier"])
    level = theirs.set_index(["base", "multiplier"])["published"]

    def score(cell: Mapping[str, Any], n: int) -> float:
        base = {"lora_sft_positive": "finetune_positive"}.get(cell["base"], cell["base"])
        return float(level.get((base, cell["multiplier"]), 0.5)) + 0.03 * (n % 5 - 2)

    texts = (*open_questions()[:asked], *([other] if other else []))
    return add_answers(folder, score, questions=texts, judge=judge)


@needs_data
def test_answers_in_words_by_the_paper_s_judge_stand_beside_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, table = compared(speaking(tmp_path / "runs" / "paper" / "x", judge=GPT4), capsys)
    spoken = table[table["kind"] == "open_ended"]
    assert len(spoken[spoken["base"] == "none"]) == 8, "five doses, three of them published twice"
    assert spoken["published"].between(0, 1).all()
    assert f"Answers in words, score from 0 to 1: {spoken['agrees'].sum()} of {len(spoken)} cells agree" in said
    first = spoken.drop_duplicates(["base", "multiplier"])
    assert first["agrees"].all()
    assert (first["difference"].abs() < 1e-3).all()
    moved = first[first["multiplier"] != 0]
    assert (moved["change"] - moved["change_published"]).abs().max() < 1e-3
    assert first.loc[first["multiplier"] == 0, ["change", "change_published"]].isna().all(axis=None)
    none = spoken[(spoken["base"] == "none") & (spoken["multiplier"] == 1)]
    assert sorted(none["change_published"].round(3)) == [0.056, 0.078], "each from the 0 of its own curve"
    assert "judged by gpt-4-0613 as there, with a rubric in other words" in said
    assert "3 cells have two published numbers, of two runs; each has its line" in said
    assert "open_ended.max_new_tokens is 60 here; there it is 100" in said


@needs_data
def test_another_judge_s_scores_have_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, table = compared(speaking(tmp_path / "runs" / "paper" / "x", judge=CLASSIFIER), capsys)
    spoken = table[table["kind"] == "open_ended"]
    assert spoken[["difference", "difference_low", "agrees"]].isna().all(axis=None)
    assert spoken[["level", "level_low", "published"]].notna().all(axis=None)
    assert table.loc[table["kind"] == "ab", "agrees"].notna().all()
    moved = spoken[spoken["multiplier"] != 0]
    same = int(((moved["change"] > 0) == (moved["change_published"] > 0)).sum())
    assert f"{same} of {len(moved)} changes with the dose have the published sign" in said
    assert "judged by classifier here, by gpt-4 there: two scales" in said


@needs_data
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"asked": 30}, "asked 30 of the paper's 50 questions; run again with open_ended.limit=null"),
        ({"asked": 49, "other": "Why?"}, "its 50 questions are not the paper's 50 (text or key differs)"),
    ],
)
def test_other_open_ended_questions_are_refused(
    changes: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refused(speaking(tmp_path / "runs" / "paper" / "x", judge=GPT4, **changes), capsys)
    assert f"open_ended/hallucination: {problem}" in line


def test_the_commands_for_it_in_the_recipes_readme_fit_what_was_published() -> None:
    """Each asks for doses that the paper has numbers of, at its length of an answer."""
    text = (Path(__file__).parents[1] / "recipes" / "README.md").read_text()
    commands = re.findall(r'^    make compare RECIPE=recipes/paper.yaml SET="(.+)"$', text, flags=re.M)
    values = load_published().values
    for command, kind in zip(commands, ("mmlu", "open_ended"), strict=True):
        recipe = load_recipe("paper", command.split())
        asked = {0.0, *recipe.sections["caa"].multipliers}
        theirs = values[(values["kind"] == kind) & (values["behavior"] == "refusal") & (values["base"] == "none")]
        assert asked == set(theirs["multiplier"])
        assert kind in (recipe.sections["capability"].source, *recipe.args.evaluators)
    assert recipe.sections["open_ended"].max_new_tokens == MAX_NEW_TOKENS
