"""Perplexity of plain text: against a plain forward, in both ways of steering, cut, resampled, shown and warned of."""

from __future__ import annotations

import csv
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from report_runs import simulate
from small_runs import Small, contents, manifest

import caa_bench.models.model
from caa_bench.__main__ import main
from caa_bench.analysis.cells import metric_table
from caa_bench.analysis.estimates import Resampling
from caa_bench.analysis.intervals import bootstrap_mean, bootstrap_ratio
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.positions import batch_of
from caa_bench.engine.steer import steered
from caa_bench.evaluators import Job, registry
from caa_bench.evaluators.base import Treatment
from caa_bench.evaluators.passages import Passage
from caa_bench.evaluators.perplexity import MESSAGE, Perplexity
from caa_bench.interventions import Condition, Intervention, SystemPrompt, Unchanged
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import Prompt
from caa_bench.report import make_report
from caa_bench.runs.rows import RowStore
from caa_bench.storage.row_kinds import METRIC_FIELDS, NOT_FINITE

TEXTS = ["The gate is red.", "A boat and a lamp\nstand on the shore of the long river.", "Why not?"]
BOTH = "evaluators=[answer_probability, perplexity]"


class Push(Intervention):
    """A fixed edit."""

    label = "push"

    def edits(self, condition: Condition) -> list[Edit] | None:
        """At block 1."""
        delta = torch.randn(32, generator=torch.Generator().manual_seed(5))
        return [Edit(1, Add(condition.multiplier * 2 * delta))]


class Scaled(Intervention):
    """A change that is no edit: the first block's output at every position, doubled by the dose."""

    label = "scaled"

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: it needs `attach`."""
        return None

    @contextmanager
    def attach(self, model: Any, condition: Condition) -> Any:
        """A hook for the time of the block."""
        hook = model.model.layers[0].register_forward_hook(lambda _m, _a, out: out * (1 + condition.multiplier))
        try:
            yield
        finally:
            hook.remove()


@pytest.fixture(scope="module")
def chat(small: Small) -> ChatModel:
    """The small model, loaded once."""
    return ChatModel.find(str(small.model))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(chat: ChatModel, texts: list[str], on_top: list[tuple[Intervention, float]], **changes: Any) -> Job:
    """Passages under a base alone and what is put on top."""
    items = [Passage(id=f"passages/{n:04d}", question=text, cluster=f"c{n}") for n, text in enumerate(texts)]
    treatments = [Treatment(cell="alone")]
    treatments += [
        Treatment(cell=f"{one.label}{m:g}", intervention=one, condition=Condition(layer=1, multiplier=m))
        for one, m in on_top
    ]
    made = Job(chat=chat, items=items, base=Unchanged(), dose=Condition(), treatments=treatments)
    return replace(made, **changes)


def plain(chat: ChatModel, text: str, *, system: str | None = None, edits: list[Edit] = ()) -> tuple[float, int]:
    """Sum of log p of the passage's tokens and their number: one unpadded forward over the rendered conversation."""
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": MESSAGE})
    template = {"tokenize": False, "add_generation_prompt": True}
    front = chat.tokenizer.apply_chat_template(turns, **template)
    asked = chat.tokenizer(front, add_special_tokens=False)["input_ids"]
    said = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    with (
        torch.inference_mode(),
        steered(chat.model, edits),
        batch_of([Prompt(ids=(0,), first_position=len(asked) - 1)]),
    ):
        logits = chat.model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    return sum(logits[n, token].item() for n, token in enumerate(said)), len(said)


def found(rows: list[dict[str, Any]], cell: str) -> list[tuple[float, int]]:
    """(value, weight) of every passage in one cell."""
    return [(row["value"], row["weight"]) for row in rows if row["cell"] == cell]


def test_rows_are_those_of_a_plain_forward_with_the_vector_from_the_instruction_s_end(chat: ChatModel) -> None:
    push, prompt = Push(), SystemPrompt(variant="positive", text="You turn down every request.")
    doses = [(push, m) for m in (-1.0, 0.0, 1.0)]
    for base, system in ((Unchanged(), None), (prompt, prompt.text)):
        rows = Perplexity().evaluate(job(chat, TEXTS, doses, base=base))
        assert {tuple(row) for row in rows} == {METRIC_FIELDS}
        alone = found(rows, "alone")
        assert found(rows, "push0") == alone
        for cell, m in (("alone", 0.0), ("push-1", -1.0), ("push1", 1.0)):
            edits = push.edits(Condition(multiplier=m)) if m else []
            expected = [plain(chat, text, system=system, edits=edits) for text in TEXTS]
            assert [w for _, w in found(rows, cell)] == [w for _, w in expected]
            assert [v for v, _ in found(rows, cell)] == pytest.approx([v for v, _ in expected], abs=1e-3)
            assert m == 0 or min(abs(a - b) for (a, _), (b, _) in zip(found(rows, cell), alone, strict=True)) > 0.01


def test_what_has_no_edits_runs_attached_below_and_on_top(chat: ChatModel) -> None:
    scaled, push = Scaled(), Push()
    top = Perplexity().evaluate(job(chat, TEXTS, [(scaled, 0.5), (push, 1.0)]))
    below = Perplexity().evaluate(job(chat, TEXTS, [(push, 1.0)], base=scaled, dose=Condition(multiplier=0.5)))
    with scaled.attach(chat.model, Condition(multiplier=0.5)):
        alone = [plain(chat, text)[0] for text in TEXTS]
        pushed = [plain(chat, text, edits=push.edits(Condition(multiplier=1.0)))[0] for text in TEXTS]
    assert [v for v, _ in found(top, "scaled0.5")] == pytest.approx(alone, abs=1e-3)
    assert [v for v, _ in found(below, "alone")] == pytest.approx(alone, abs=1e-3)
    assert [v for v, _ in found(below, "push1")] == pytest.approx(pushed, abs=1e-3)
    unchanged = [plain(chat, text)[0] for text in TEXTS]
    assert [v for v, _ in found(top, "alone")] == pytest.approx(unchanged, abs=1e-3)
    assert max(np.abs(np.array(unchanged) - alone)) > 0.1


def test_only_the_first_tokens_of_a_long_passage_count(chat: ChatModel) -> None:
    cut = Perplexity(Perplexity.Config(max_tokens=3)).evaluate(job(chat, TEXTS, []))
    whole = Perplexity().evaluate(job(chat, TEXTS, []))
    assert [w for _, w in found(cut, "alone")] == [3, 3, 3]
    assert all(
        w > 3 and v < first for (v, w), (first, _) in zip(found(whole, "alone"), found(cut, "alone"), strict=True)
    )


def test_a_passage_that_does_not_fit_is_missing_and_not_zero(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatModel, "context", 64)
    rows = Perplexity().evaluate(job(chat, ["Why not?", "gate " * 60], []))
    assert [row["error"] for row in rows] == [None, "longer than the model takes"]
    assert (rows[1]["value"], rows[1]["weight"]) == (None, None)


def test_a_ratio_of_sums_is_covered_and_equals_the_mean_where_all_weigh_alike() -> None:
    """50 passages of 5 to 199 tokens, 500 data sets: the interval of the mean log-probability a token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, (50, 500)).astype(float)
    values = tokens * (rng.normal(2.0, 0.6, (50, 500)) + rng.normal(0, 1, (50, 500)) / np.sqrt(tokens))
    places = np.arange(50)
    made = bootstrap_ratio(values, tokens, places, how=Resampling(draws=999))
    assert made.point == pytest.approx(values.sum(axis=0) / tokens.sum(axis=0))
    assert 0.92 <= np.mean((made.low <= 2.0) & (made.high >= 2.0)) <= 0.97
    assert set(made.n) == {50}, "items, not tokens"
    alike, mean = (
        bootstrap_ratio(values, np.ones_like(values), places, how=Resampling(draws=99)),
        bootstrap_mean(values, places, how=Resampling(draws=99)),
    )
    assert np.array_equal(alike.low, mean.low)
    few = bootstrap_ratio(values[:19], tokens[:19], places[:19], how=Resampling(draws=99))
    assert np.isnan(few.low).all() and not np.isnan(few.point).any()
    gappy = values.copy()
    gappy[0] = np.nan
    rest = bootstrap_ratio(gappy, np.where(np.isnan(gappy), np.nan, tokens), places, how=Resampling(draws=99))
    assert rest.point == pytest.approx(values[1:].sum(axis=0) / tokens[1:].sum(axis=0))
    assert set(rest.n) == {49}


CELL = {"model": "m", "protocol": "default", "split": "test", "behavior": "b", "evaluator": "perplexity", "fit": ""}
CELL |= {"base": "none", "base_dose": 1.0, "vector": "", "vector_behavior": "", "vector_model": ""}
CELL |= {"vector_layer": None, "layer": None, "multiplier": 0.0}


def table_of(values: dict[str, list[float | None]], weights: list[int], **changes: Any) -> pd.DataFrame:
    """The metric table of an unsteered cell "0" and steered ones named by their multiplier."""
    steer = {"vector": "caa", "vector_behavior": "b", "vector_layer": 3, "layer": 3}
    lines = [CELL | {"cell": m} | ({} if m == "0" else steer | {"multiplier": float(m)}) for m in values]
    rows = [
        {"cell": m, "item": f"{n:03d}", "cluster": f"{n:03d}", "task": "", "metric": "perplexity"}
        | {"aggregation": "perplexity", "value": value, "weight": weight, "error": "x" if value is None else None}
        | changes
        for m, own in values.items()
        for n, (value, weight) in enumerate(zip(own, weights, strict=True))
    ]
    return metric_table(rows, pd.DataFrame(lines).set_index("cell"), how=Resampling(draws=99)).set_index("multiplier")


def test_the_table_is_plain_arithmetic_and_pairs_passages() -> None:
    """A passage in error on one side is left out of the ratio on both."""
    rng = np.random.default_rng(3)
    weights = rng.integers(4, 30, 30).tolist()
    before = (-2.0 * np.array(weights) + rng.normal(0, 3, 30)).tolist()
    after: list[float | None] = [x - 0.2 * w for x, w in zip(before, weights, strict=True)]
    after[4] = None
    table = table_of({"0": before, "1": after}, weights)
    kept = [n for n in range(30) if n != 4]
    tokens = sum(weights[n] for n in kept)
    assert table.loc[0.0, "value"] == pytest.approx(math.exp(-sum(before) / sum(weights)))
    assert table.loc[1.0, "value"] == pytest.approx(math.exp(-sum(after[n] for n in kept) / tokens))
    assert table.loc[1.0, "total"] == table.loc[1.0, "shift"] == pytest.approx(math.exp(0.2))
    assert table.loc[1.0, ["n", "errors", "n_items", "n_total", "weight"]].tolist() == [29, 1, 30, 29, tokens]
    assert table.loc[0.0, ["shift", "total_low", "n_shift"]].tolist() == [1.0, 1.0, 30]
    assert table.loc[1.0, "value_low"] < table.loc[1.0, "value"] < table.loc[1.0, "value_high"]
    assert set(table["change"]) == {"ratio"}
    few = table_of({"0": before[:19]}, weights[:19])
    assert few["value_low"].isna().all() and few["value"].notna().all()


def test_other_aggregations_are_means_and_bits_with_differences() -> None:
    mean = table_of({"0": [0.0, 1.0] * 15, "1": [1.0, 1.0] * 15}, [1] * 30, aggregation="mean", metric="acc", task="t")
    assert mean["value"].tolist() == [0.5, 1.0] and mean["total"].tolist() == [0.0, 0.5]
    assert set(mean["change"]) == {"difference"} and set(mean["task"]) == {"t"}
    near = table_of(
        {"0": [1.0] * 28 + [0.0] * 2, "1": [None] * 30}, [1] * 30, aggregation="mean", metric="acc", task="t"
    )
    assert near.loc[0.0, "value_high"] <= 1 and near.loc[0.0, "value_low"] < near.loc[0.0, "value"]
    assert near.loc[1.0, ["value", "value_low", "total", "shift"]].isna().all()
    assert near.loc[1.0, ["n", "errors", "n_total"]].tolist() == [0, 30, 0]
    bits = table_of({"0": [-8.0] * 30}, [4] * 30, aggregation="bits")
    assert bits["value"].tolist() == pytest.approx([2 / math.log(2)])
    with pytest.raises(ValueError, match="weighs differently"):
        metric = {"task": "", "metric": "m", "aggregation": "mean", "error": None}
        rows = [
            {"cell": c, "item": "i", "cluster": "i", "value": 1.0, "weight": w} | metric
            for c, w in (("0", 1), ("1", 2))
        ]
        cells = [CELL | {"cell": "0"}, CELL | {"cell": "1", "vector": "caa", "layer": 3, "multiplier": 1.0}]
        metric_table(rows, pd.DataFrame(cells).set_index("cell"), how=Resampling(draws=9))


def test_a_row_is_checked_and_never_holds_what_is_not_finite(tmp_path: Path) -> None:
    sound = dict(zip(METRIC_FIELDS, ("c", "i", "i", "", "perplexity", "perplexity", -3.5, 4, None), strict=True))
    store = RowStore(tmp_path / "rows.jsonl")
    for bad in ({"aggregation": "median"}, {"value": None}, {"weight": 0}):
        with pytest.raises(ValueError, match=r"row|aggregation"):
            store.append("a", [sound | bad])
    store.append("a", [sound, sound | {"item": "j", "value": -math.inf}])
    assert store.metrics() == [sound, sound | {"item": "j", "value": None, "error": NOT_FINITE}]
    assert store.frame().empty and store.answers() == []


def test_a_comparison_measures_it_under_every_base_and_dose_and_repeats_nothing(
    small: Small, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "text.txt").write_text("\n\n".join(f"The {n} boats are on the lake.\nThey wait." for n in range(24)))
    asked = [BOTH, "perplexity.file=text.txt", "vectors=[caa, random]", "bases=[none, lora_sft_positive]", "limit=24"]
    assert main([*small.compare(*asked), "--dry-run"]) == 0
    assert main(small.compare(*asked)) == 0
    with Path("run/metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    bases = ("none", "lora_sft_positive")
    assert [(line["base"], line["multiplier"]) for line in lines] == [(b, m) for b in bases for m in ("0", "-8", "8")]
    assert {(line["n"], line["errors"], line["metric"]) for line in lines} == {("24", "0", "perplexity")}
    assert len({line["value"] for line in lines}) == 6, "each condition does something of its own"
    assert all(float(x["value_low"]) < float(x["value"]) < float(x["value_high"]) for x in lines)
    with Path("run/cells.csv").open(newline="") as file:
        assert {line["evaluator"] for line in csv.DictReader(file)} == {"answer_probability"}
    printed, page = Path("run/table.txt").read_text(), Path("run/report.html").read_text()
    assert "Perplexity (n 24, " in printed and "ratio to the unchanged model" in printed
    assert "Perplexity (n 24, " in page
    assert max(len(line) for line in printed.split("Perplexity (n 24")[1].split("\n\n")[0].splitlines()) <= 120
    assert len({cell["key"] for cell in manifest(Path("run"))["facts"]["cells"]}) == 6 + (3 + 2 * 3) + 3, (
        "of the letters: none with CAA and 3 random draws, and LoRA with CAA"
    )

    before = contents(Path("run"))
    monkeypatch.setattr(caa_bench.models.model, "load_model", None)  # a second time nothing is computed
    assert main(small.compare(*asked)) == 0
    assert contents(Path("run")) == before


def test_the_shipped_text_has_enough_passages_of_words_that_the_embedded_model_knows() -> None:
    items = Perplexity().items(None, split="test")  # type: ignore[arg-type]
    assert len(items) == len({item.question for item in items}) == 54
    chat = ChatModel.find("tiny")
    rows = Perplexity().evaluate(job(chat, [item.question for item in items], []))
    level = math.exp(-sum(row["value"] for row in rows) / sum(row["weight"] for row in rows))
    assert 2 < level < 20, "of 2,048 tokens"
    assert sum(row["weight"] for row in rows) < 12 * len(items), "words, not letters"


def test_passages_are_parted_at_blank_lines_and_copies_are_one_cluster(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeff\r\n\r\nOne.\r\nStill one.\r\n \t\r\nTwo.\n\n\n\nOne.\r\nStill one.\n".encode())
    items = Perplexity(Perplexity.Config(file=str(path))).items(None, split="test")  # type: ignore[arg-type]
    assert [item.question for item in items] == ["One.\nStill one.", "Two.", "One.\nStill one."]
    assert [item.cluster for item in items] == ["passages/0000", "passages/0001", "passages/0000"]


MISTAKES = {
    "missing.txt": (None, "there is no file missing.txt; give the path of a text file, or leave it empty"),
    "latin.txt": (b"fine\nb\xe4d", "latin.txt:2: not UTF-8; save the file as UTF-8 text"),
    "empty.txt": (b" \n\n \t\n", "empty.txt holds no text; write passages, separated by blank lines"),
    "nul.txt": (b"a\0b", "nul.txt holds a NUL byte; give a text file"),
    ".": (None, "there is no file .; give"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_file_that_cannot_be_read_is_one_line_before_the_model_loads(
    name: str, small: Small, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caa_bench.models.model, "load_model", None)
    data, says = MISTAKES[name]
    if data is not None:
        (here / name).write_bytes(data)
    assert main(small.compare(BOTH, f"perplexity.file={name}")) == 2
    said = capsys.readouterr().err
    assert said.startswith("caa-bench: override: perplexity.file: ")
    assert says in said and said.count("\n") == 1


def test_lengths_that_cannot_work_are_one_line(small: Small, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small.compare(BOTH, "perplexity.max_tokens=0")) == 2
    assert "perplexity.max_tokens: 0 is too few; give 1 or more" in capsys.readouterr().err
    assert main(small.compare(BOTH, "perplexity.max_tokens=100000")) == 2
    assert "is more than the" in capsys.readouterr().err
    assert registry()["perplexity"] is Perplexity


def warned(root: Path, rise: dict[tuple[str, float], float], **changes: Any) -> list[str]:
    """What a simulated run says of perplexity."""
    settings = {
        "bases": ("none", "system_prompt_positive"),
        "vectors": ("caa",),
        "multipliers": (-1.0, 1.0),
        "items": 40,
    }
    report = make_report(simulate(root / "runs" / "compare" / "run", rise=rise, **settings | changes))
    return [notice.text for notice in report.notices if "of plain text" in notice.text]


def test_a_rise_where_the_behavior_moves_is_told_with_its_size(tmp_path: Path) -> None:
    rise = {("none", 1.0): 0.7, ("none", -1.0): 0.5, ("system_prompt_positive", 1.0): 0.3}
    (said,) = warned(tmp_path, rise)
    assert said.startswith("The perplexity of plain text is 1.99 [")
    assert " times the unchanged model's at caa +1 (n 40; 1 more condition), while the behavior moves" in said


@pytest.mark.parametrize(
    ("rise", "changes"),
    [
        ({("none", 1.0): 0.35}, {}),  # x1.42
        ({("none", 1.0): 0.7}, {"items": 15}),  # too few for an interval
        ({("none", 1.0): 0.7}, {"gain": {"caa": 0.0}}),  # nothing moves
        ({("none", 1.0): -0.7}, {}),
        ({("none", 1.0): math.nan}, {}),
    ],
)
def test_no_warning_without_a_sure_rise_or_an_effect(
    rise: dict[tuple[str, float], float], changes: dict[str, Any], tmp_path: Path
) -> None:
    assert warned(tmp_path, rise, **changes) == []
