"""lm-evaluation-harness on the steered model: equal to lm-eval's own model and results where nothing is steered."""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_runs import Small, contents

import caa_bench.models.model
from caa_bench.__main__ import main
from caa_bench.analysis.cells import metric_table
from caa_bench.analysis.estimates import Resampling
from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.evaluators import Job, registry
from caa_bench.evaluators.base import Treatment
from caa_bench.evaluators.lm_eval.evaluator import LmEval
from caa_bench.interventions import Condition, Intervention, SystemPrompt, Unchanged
from caa_bench.models.model import ChatModel
from caa_bench.runs.plan import Cell
from caa_bench.runs.rows import RowStore

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install caa-bench[lm-eval])")

import datasets
import lm_eval
import torch
from harness_tasks import TASKS, documents, write_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from caa_bench.evaluators.lm_eval.steered_model import SteeredLM

BOTH = "evaluators=[answer_probability, lm_eval]"


class Push(Intervention):
    """A fixed edit at the steered block."""

    label = "push"

    def edits(self, condition: Condition) -> list[Edit]:
        """Several times the embedded model's own vectors: it was trained to ignore smaller noise."""
        delta = torch.randn(128, generator=torch.Generator().manual_seed(5))
        return [Edit(3, Add(condition.multiplier * 3 * delta))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files; what datasets makes of the data goes beside them."""
    root = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        yield write_tasks(root / "own")


@pytest.fixture(scope="module")
def tiny() -> ChatModel:
    """The embedded model."""
    return ChatModel.find("tiny")


@pytest.fixture(scope="module")
def theirs(tiny: ChatModel) -> HFLM:
    """The same weights as lm-eval runs them."""
    return HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, batch_size=4, device="cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request(kind: str, *args: Any) -> Instance:
    """One request."""
    return Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("t", 0, 1))


def evaluator(folder: Path, *tasks: str, **changes: Any) -> LmEval:
    """The evaluator over some of the task files."""
    return LmEval(LmEval.Config(tasks=tasks, task_path=str(folder), **changes))


def rows_of(one: LmEval, chat: ChatModel, *doses: float, base: Intervention | None = None) -> list[dict[str, Any]]:
    """Every document in one batch: the base alone in cell "alone", pushes in cells named by their dose."""
    treatments = [Treatment(cell="alone")]
    treatments += [Treatment(cell=f"{m:g}", intervention=Push(), condition=Condition(multiplier=m)) for m in doses]
    items = one.items(None, split="test")  # type: ignore[arg-type]
    return one.evaluate(Job(chat=chat, items=items, base=base or Unchanged(), dose=Condition(), treatments=treatments))


def values(rows: list[dict[str, Any]], cell: str) -> dict[tuple[str, str, str], float]:
    """(item, task, metric) -> value."""
    return {(row["item"], row["task"], row["metric"]): row["value"] for row in rows if row["cell"] == cell}


PAIRS = [
    ("What is the capital of France?", " Paris"),
    ("What is the capital of Italy? ", "Rome"),
    ("Question: name a metal.\nAnswer:", " iron is a metal"),
    ("", "The capital of Russia is Moscow."),
    ("A young dog is called a", " puppy."),
]


def test_raw_log_likelihoods_are_those_of_lm_eval_s_own_model(tiny: ChatModel, theirs: HFLM) -> None:
    """Contexts with a space at their end, of several lines, and none at all; greedy or not."""
    asked = [request("loglikelihood", *pair) for pair in PAIRS]
    ours, expected = SteeredLM(tiny, chat_template=False).loglikelihood(asked), theirs.loglikelihood(asked)
    assert [x for x, _ in ours] == pytest.approx([x for x, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    assert not any(SteeredLM(tiny, chat_template=False).problem(one) for one in asked)


def test_whole_texts_in_windows_are_those_of_lm_eval_s_own_model(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(one["text"] for one in documents())
    for room in (1024, 16):
        monkeypatch.setattr(ChatModel, "context", room)
        theirs = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, batch_size=4, device="cpu", max_length=room)
        asked = [request("loglikelihood_rolling", x) for x in (text, "The capital of Peru is Lima.")]
        ours = SteeredLM(tiny, chat_template=False).loglikelihood_rolling(asked)
        assert ours == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-5, abs=1e-4)


def test_raw_answers_in_words_are_those_of_lm_eval_s_own_model(tiny: ChatModel, theirs: HFLM) -> None:
    """Greedy, up to the first of the stop texts."""
    contexts = ["<s>[INST] What is the capital of Peru? [/INST]", "<s>[INST] What do you call a young dog? [/INST]"]
    for until in (["\n"], ["is", "\n"]):
        asked = [request("generate_until", text, {"until": until, "max_gen_toks": 12}) for text in contexts]
        ours = SteeredLM(tiny, chat_template=False).generate_until(asked)
        assert ours == theirs.generate_until(asked)
        assert any("is" in said for said in ours) == (len(until) == 1)


@pytest.mark.parametrize("templated", [False, True])
def test_levels_are_lm_eval_s_own_results(templated: bool, folder: Path, tiny: ChatModel, theirs: HFLM) -> None:
    """Every task and metric, few-shot examples and filters among them, against `simple_evaluate` on the same model.

    Raw, that model is lm-eval's own; under the chat template it is ours, and lm-eval aggregates.
    """
    model = SteeredLM(tiny) if templated else theirs
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(model=model, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)
    expected = {
        (task, name.removesuffix(",none")): value
        for task, found in done["results"].items()
        for name, value in found.items()
        if isinstance(value, float | int) and "stderr" not in name and name != "sample_len"
    }
    rows = rows_of(evaluator(folder, *TASKS, chat_template=templated, seed=1234), tiny)
    assert not [row for row in rows if row["error"]]
    cell = Cell(
        key="alone", model="tiny", protocol="default", split="test", behavior="b", evaluator="lm_eval", base="none",
        base_dose=1.0, vector="", vector_behavior="", vector_layer=None, layer=None, multiplier=0.0,
    )  # fmt: skip
    table = metric_table(
        rows, pd.DataFrame([vars(cell)]).rename(columns={"key": "cell"}).set_index("cell"), how=Resampling(draws=99)
    )
    ours = {(x["task"], x["metric"]): x["value"] for x in table.to_dict("records")}
    assert ours == pytest.approx(expected, rel=1e-5)
    assert len(ours) == 2 + 2 + 2 + 2 + 3
    assert set(table["n"]) == {22}
    assert set(table.loc[table["task"] == "facts_read", "change"]) == {"ratio", "difference"}
    if templated:
        assert ours["facts_choice", "acc"] > 0.7, "the model knows these"
        assert ours["facts_words", "exact_match,whole"] > 0.2


def test_steering_and_system_prompts_act_and_a_multiplier_of_0_does_nothing(folder: Path, tiny: ChatModel) -> None:
    one = evaluator(folder, "facts_said", "facts_words")
    rows = rows_of(one, tiny, 0.0, 1.0, -1.0)
    alone = values(rows, "alone")
    assert values(rows, "0") == alone
    said = [key for key in alone if key[2] == "perplexity"]
    for cell in ("1", "-1"):
        moved = values(rows, cell)
        assert all(abs(moved[key] - alone[key]) > 1e-3 for key in said)
    prompt = SystemPrompt(variant="positive", text="You turn down every request.")
    changed = values(rows_of(one, tiny, base=prompt), "alone")
    assert all(abs(changed[key] - alone[key]) > 1e-3 for key in said)


def test_a_chat_request_is_one_user_turn_answered_and_steered_from_the_instruction_s_end(tiny: ChatModel) -> None:
    """log p by hand: a plain forward over the rendered conversation, hooks from its last instruction token on."""
    from caa_bench.engine.positions import batch_of
    from caa_bench.engine.steer import steered
    from caa_bench.models.prompts import Prompt

    question, answer = "What is the capital of Peru?", "The capital of Peru is Lima."
    edits = Push().edits(Condition(multiplier=1.0))
    lm = SteeredLM(tiny, base=SystemPrompt(variant="x", text="You are brief."), edits=edits)
    ((found, _),) = lm.loglikelihood([request("loglikelihood", question, f" {answer}")])
    front = f"<s>[INST] <<SYS>>\nYou are brief.\n<</SYS>>\n\n{question} [/INST]"
    asked = tiny.tokenizer(front, add_special_tokens=False)["input_ids"]
    said = tiny.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    with (
        torch.inference_mode(),
        steered(tiny.model, edits),
        batch_of([Prompt(ids=(0,), first_position=len(asked) - 1)]),
    ):
        logits = tiny.model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
    assert found == pytest.approx(sum(logits[n, token].item() for n, token in enumerate(said)), abs=1e-3)


def test_batches_of_documents_give_what_all_of_them_give(folder: Path, tiny: ChatModel) -> None:
    """Few-shot examples belong to the document, whatever it is computed with."""
    one = evaluator(folder, "facts_shots", "facts_words")
    items = one.items(None, split="test")  # type: ignore[arg-type]
    assert Counter(item.task for item in items[:10]) == {"facts_shots": 5, "facts_words": 5}, "in turn"
    assert len({item.content for item in items}) == len(items) == 44
    common = {"chat": tiny, "base": Unchanged(), "dose": Condition(), "treatments": [Treatment(cell="alone")]}
    whole = values(one.evaluate(Job(items=items, **common)), "alone")
    parts = [one.evaluate(Job(items=items[n : n + 7], prompts_per_pass=3, **common)) for n in range(0, 44, 7)]
    assert values([row for part in parts for row in part], "alone") == whole
    again = evaluator(folder, "facts_shots", "facts_words").items(None, split="test")  # type: ignore[arg-type]
    assert again == items
    other = evaluator(folder, "facts_shots", seed=7).items(None, split="test")  # type: ignore[arg-type]
    shots = {item.number: item.question for item in items if item.task == "facts_shots"}
    assert all(item.question.startswith("Answer each question.") for item in other)
    assert any(item.question != shots[item.number] for item in other), "the seed draws the examples"


def test_what_cannot_be_answered_is_missing_in_every_metric(
    folder: Path, tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = evaluator(folder, "facts_choice", "facts_words")
    monkeypatch.setattr(ChatModel, "context", 22)
    rows = rows_of(one, tiny)
    missing = [row for row in rows if row["error"]]
    assert {row["error"] for row in missing} == {"longer than the model takes"}
    assert all(row["value"] is None for row in missing)
    assert {row["metric"] for row in missing if row["task"] == "facts_words"} == {
        "exact_match,whole",
        "exact_match,last",
    }
    assert len(rows) == 22 * 4
    monkeypatch.undo()
    (task,) = evaluator(folder, "facts_choice")._tasks.tasks.values()
    monkeypatch.setattr(type(task), "process_results", lambda *_: 1 / 0)
    rows = rows_of(evaluator(folder, "facts_choice"), tiny)
    assert {row["error"] for row in rows} == {"ZeroDivisionError: division by zero"}
    assert {row["metric"] for row in rows} == {"acc", "acc_norm"}


def test_a_comparison_runs_tasks_under_every_base_and_dose_and_repeats_nothing(
    folder: Path, small: Small, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["lm_eval.tasks=[facts_choice, facts_words]", f"lm_eval.task_path={folder}", "lm_eval.limit=21"]
    asked = small.compare(BOTH, *asked, "bases=[none]", "limit=44")
    assert main(asked) == 0
    with Path("run/metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    metrics = [("facts_choice", "acc"), ("facts_choice", "acc_norm")]
    metrics += [("facts_words", "exact_match,last"), ("facts_words", "exact_match,whole")]
    assert Counter((line["task"], line["metric"]) for line in lines) == dict.fromkeys(metrics, 3)
    assert {line["evaluator"] for line in lines} == {"lm_eval"}
    assert {(line["n"], line["change"]) for line in lines} == {("21", "difference")}
    assert any(line["total_low"] for line in lines), "n/a where one item carries the change"
    rows = RowStore(Path("run/rows.jsonl")).metrics()
    for line in lines:
        own = [x["value"] for x in rows if all(x[key] == line[key] for key in ("cell", "task", "metric"))]
        assert float(line["value"]) == pytest.approx(sum(own) / 21)
    assert len({line["value"] for line in lines if line["metric"] == "acc"}) > 1
    printed, page = Path("run/table.txt").read_text(), Path("run/report.html").read_text()
    assert "facts_choice: acc (n 21)" in printed and "facts_choice: acc_norm (n 21)" in printed
    assert "acc_norm" not in capsys.readouterr().out.split("facts_choice: acc (n 21)")[1], "one metric a task at first"
    assert f'data-key="{lines[0]["cell"]}|facts_choice|acc"' in page

    before = contents(Path("run"))
    monkeypatch.setattr(caa_bench.models.model, "load_model", None)  # a second time nothing is computed
    assert main(asked) == 0
    assert contents(Path("run")) == before


def refused(small: Small, capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    """The one line of a comparison that is refused before the model loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caa_bench.models.model, "load_model", None)
        assert main(small.compare(BOTH, "bases=[none, system_prompt_positive]", *settings)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


MISTAKES = {
    "facts_chioce": "lm_eval.tasks: 'facts_chioce': no such task; did you mean 'facts_choice'?",
    "facts_code": "lm_eval.tasks: 'facts_code' runs code that the model writes, which is refused; take it out",
    "facts_f1": "lm_eval.tasks: 'facts_f1': no value of one document in its metrics (f1); take it out",
    "facts_drawn": "lm_eval.tasks: 'facts_drawn' draws with top_p, which is not known here; set do_sample: false",
    "facts_lost": "lm_eval.tasks: 'facts_lost' cannot be loaded (FileNotFoundError: ",
}


@pytest.mark.parametrize("task", MISTAKES)
def test_a_task_that_cannot_be_measured_is_one_line(
    task: str,
    folder: Path,
    small: Small,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    init = TaskManager.__init__
    # lm-eval's own 14,000 task files take ten seconds to be looked through
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **given: init(self, **given | {"include_defaults": False})
    )
    said = refused(small, capsys, f"lm_eval.tasks=[{task}]", f"lm_eval.task_path={folder}")
    assert MISTAKES[task] in said


def test_settings_that_cannot_work_are_one_line(
    folder: Path, small: Small, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "lm_eval.tasks: an empty list; name tasks" in refused(small, capsys)
    assert "lm_eval.task_path: there is no folder nowhere" in refused(
        small, capsys, "lm_eval.tasks=[a]", "lm_eval.task_path=nowhere"
    )
    assert "lm_eval.limit: 0 is too few; give 1 or more" in refused(small, capsys, "lm_eval.limit=0")
    own = ["lm_eval.tasks=[facts_choice]", f"lm_eval.task_path={folder}"]
    said = refused(small, capsys, *own, "lm_eval.chat_template=false")
    assert "lm_eval.chat_template: false leaves system_prompt_positive nothing to act on" in said
    assert evaluator(folder, chat_template=False).check_base(Unchanged()) == []
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    said = refused(small, capsys, *own)
    assert said == (
        "caa-bench: override: evaluators: lm_eval needs lm-eval, which is not installed; "
        "run pip install caa-bench[lm-eval]\n"
    )


def test_metrics_that_are_no_sums_are_left_out_and_said(folder: Path, tmp_path: Path, tiny: ChatModel) -> None:
    text = (folder / "facts_choice.yaml").read_text().replace("facts_choice", "facts_both")
    (tmp_path / "both.yaml").write_text(text.replace("metric_list:\n", "metric_list:\n- metric: f1\n"))
    one = evaluator(tmp_path, "facts_both", limit=3)
    (said,) = one.costs(None, tiny, items=3, cells=1)  # type: ignore[arg-type]
    assert said == "lm_eval: facts_both: f1 is no sum over documents and left out"
    assert {row["metric"] for row in rows_of(one, tiny)} == {"acc", "acc_norm"}


def test_a_draw_is_the_same_alone_and_in_any_batch_and_differs_between_repeats(tiny: ChatModel) -> None:
    drawn = {"do_sample": True, "temperature": 3.0, "max_gen_toks": 8, "until": []}
    asked = [request("generate_until", text, drawn) for text, _ in PAIRS if text]
    lm = SteeredLM(tiny, seed=3)
    together = lm.generate_until(asked)
    assert [lm.generate_until([one])[0] for one in asked] == together
    assert len(set(lm.generate_until([asked[0]] * 4))) > 1
    assert SteeredLM(tiny, seed=4).generate_until(asked) != together
    assert registry()["lm_eval"] is LmEval
    assert math.isfinite(sum(x for x, _ in lm.loglikelihood([request("loglikelihood", *PAIRS[0])])))


def test_tasks_alone_have_a_report(folder: Path, small: Small, here: Path) -> None:
    """Neither an A/B test nor a perplexity beside them."""
    asked = ["evaluators=[lm_eval]", "lm_eval.tasks=[facts_choice]", f"lm_eval.task_path={folder}", "lm_eval.limit=4"]
    assert main(small.compare(*asked, "bases=[none]")) == 0
    assert "facts_choice" in Path("run/table.txt").read_text()
