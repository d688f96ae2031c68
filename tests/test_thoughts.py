"""A model whose template opens a thought may think before it answers: within a budget, and apart from the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_tokenizers import CHATML_TEMPLATE, chatml_tokenizer
from random_models import random_model
from small_behavior import write_behavior
from small_runs import manifest

from caa_bench.__main__ import main
from caa_bench.engine.generate import Continuation
from caa_bench.evaluators.judging import answers_to_judge, only_thoughts
from caa_bench.evaluators.spoken import Said
from caa_bench.judges import Asked
from caa_bench.models.loading import Loading
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt, thinking_prompt
from caa_bench.runs.rows import RowStore

THINKS = CHATML_TEMPLATE.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
BUDGET, WORDS = 6, 4


def thinker(folder: Path, *, ends: str = "") -> Path:
    """A random model whose prompts open a thought; `ends`: how `</think>` is read, as a `token` of its own or as text.

    A token's logits are those of whatever the model would say third, and a little more, so that some thoughts end.
    """
    tokenizer = chatml_tokenizer(template=THINKS)
    if ends == "token":
        tokenizer.add_tokens(["</think>"])
    model = random_model("llama", layers=3, hidden=32, vocab=len(tokenizer))
    if ends == "token":
        ids = list(thinking_prompt(tokenizer, [{"role": "user", "content": "Will you open the red boat?"}]).ids)
        for _ in range(3):
            ids.append(greedy(model, ids))
        with torch.no_grad():
            weight = model.get_output_embeddings().weight
            weight[tokenizer.convert_tokens_to_ids("</think>")] = 1.2 * weight[ids[-1]]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def greedy(model: Any, ids: list[int]) -> int:
    with torch.no_grad():
        return int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())


def compared(folder: Path, model: Path, *more: str) -> int:
    settings = {
        "model": str(model),
        "behavior": str(write_behavior(folder / "small")),
        "bases": "[none, system_prompt_positive]",
        "vectors": "[caa]",
        "caa.multipliers": "[-40, 40]",
        "caa.layers": "[1]",
        "evaluators": "[answer_probability, open_ended]",
        "open_ended.max_new_tokens": str(WORDS),
        "tune": "off",
        "draws": "9",
        "report_to": "[]",
        "output_dir": str(folder / "runs"),
    } | dict(setting.split("=", 1) for setting in more)
    return main(["compare", "--output", str(folder / "run"), *(f"{key}={value}" for key, value in settings.items())])


def answers(run: Path) -> list[dict[str, Any]]:
    """Rows in words, each with its cell."""
    cells = {cell["key"]: cell for cell in manifest(run)["facts"]["cells"]}
    return [row | {"of": cells[row["cell"]]} for row in RowStore(run / "rows.jsonl").answers()]


@pytest.mark.parametrize("ends", ["text", "token"])
def test_a_thought_comes_first_and_the_answer_is_what_follows_its_end(ends: str, tmp_path: Path) -> None:
    model = thinker(tmp_path / "model", ends=ends)
    assert compared(tmp_path, model, f"open_ended.thought_tokens={BUDGET}") == 0
    rows = answers(tmp_path / "run")
    assert len(rows) == 4 * 2 * 3 and all("thought" in row for row in rows)
    chat, ended = ChatModel.find(str(model)), 0
    closes = chat.tokenizer.convert_tokens_to_ids("</think>") if ends == "token" else None
    for row in (row for row in rows if row["of"]["base"] == "none" and not row["of"]["vector"]):
        ids = list(thinking_prompt(chat.tokenizer, [{"role": "user", "content": row["question"]}]).ids)
        begun = len(ids)
        while len(ids) - begun < BUDGET and (token := greedy(chat.model, ids)) not in (closes, *chat.stop_ids):
            ids.append(token)
        ended += len(ids) - begun < BUDGET
        assert row["thought"] == chat.text_of(ids[begun:])
        ids += chat.tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
        begun = len(ids)
        while len(ids) - begun < WORDS and (token := greedy(chat.model, ids)) not in chat.stop_ids:
            ids.append(token)
        assert row["text"] == chat.text_of(ids[begun:]) and row["tokens"] == len(ids) - begun
        assert row["plain_log_prob"] == pytest.approx(row["log_prob"], abs=1e-4)  # it is the plain model
    assert ended or ends == "text"  # by itself


def test_a_thought_is_steered_and_said_alike_however_it_is_computed(tmp_path: Path) -> None:
    model = thinker(tmp_path / "model")
    said = []
    for name, more in (("shared", ()), ("alone", ("share_prefix=false",))):
        assert compared(tmp_path / name, model, f"open_ended.thought_tokens={BUDGET}", *more) == 0
        said.append(
            {
                (r["of"]["base"], r["of"]["multiplier"], r["item"]): (r["thought"], r["text"])
                for r in answers(tmp_path / name / "run")
            }
        )
    assert said[0] == said[1]
    assert any(said[0]["none", 0.0, item][0] != said[0]["none", 40.0, item][0] for _, _, item in said[0])


def test_without_a_budget_the_thought_is_closed_at_once(tmp_path: Path) -> None:
    model = thinker(tmp_path / "model")
    assert compared(tmp_path, model, "vectors=[]") == 0
    chat = ChatModel.find(str(model))
    for row in (row for row in answers(tmp_path / "run") if row["of"]["base"] == "none"):
        assert "thought" not in row
        prompt = chat_prompt(chat.tokenizer, [{"role": "user", "content": row["question"]}])
        assert chat.tokenizer.decode(prompt.ids).endswith("<think>\n\n</think>\n\n")
        ids = list(prompt.ids)
        while len(ids) - len(prompt.ids) < WORDS and (token := greedy(chat.model, ids)) not in chat.stop_ids:
            ids.append(token)
        assert row["text"] == chat.text_of(ids[len(prompt.ids) :])


@pytest.mark.parametrize(
    ("said", "thought", "text"),
    [
        ("Yes, gladly.", None, "Yes, gladly."),
        ("<think>\nIt is asked.\n</think>\n\nYes, gladly.", "<think>\nIt is asked.\n</think>", "Yes, gladly."),
        ("<think>\nIt is asked, so I", "<think>\nIt is asked, so I", ""),
        (" [THINK]a[/THINK]No <think> of it", "[THINK]a[/THINK]", "No <think> of it"),
        ("I <think>so</think>.", None, "I <think>so</think>."),
        ("<think></think>", "<think></think>", ""),
    ],
)
def test_a_thought_that_a_model_opens_by_itself_is_no_part_of_its_answer(
    said: str, thought: str | None, text: str
) -> None:
    """A judge would rate the first words of the thought as the answer."""
    tokenizer = chatml_tokenizer()
    chat = ChatModel(name="here", loading=Loading(), _tokenizer=tokenizer)
    ids = tuple(tokenizer(said, add_special_tokens=False)["input_ids"])
    answer = Continuation(ids=ids, ended="length", log_probs=(0.0,) * len(ids))
    found = Said(thought=None, answer=answer).texts(chat)
    assert (found.get("thought"), found["text"]) == (thought, text)


def test_answers_that_are_nothing_but_a_thought_are_counted() -> None:
    rows = [{"text": "Yes."}, {"text": "", "thought": "<think> Hm"}, {"text": None}, {"text": "", "thought": "<think>"}]
    assert only_thoughts(rows, most=60) == (
        "open_ended: 2 of 4 answers are a thought that 60 tokens did not end, so there is nothing to judge in them; "
        "raise open_ended.max_new_tokens"
    )
    assert only_thoughts(rows[:1], most=60) == ""
    assert answers_to_judge([row | {"question": "Why?"} for row in rows]) == [Asked(question="Why?", text="Yes.")]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("5", "open_ended.thought_tokens: the chat template of "),
        ("-1", "open_ended: thought_tokens: -1 is too few; give 0 or more"),
        ("40000", "thought_tokens: 40,000 is longer than any answer; give at most 32,768"),
    ],
)
def test_what_cannot_be_thought_is_refused_before_weights_load(
    asked: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = chatml_tokenizer()
    random_model("llama", layers=3, hidden=32, vocab=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    monkeypatch.setattr("caa_bench.models.model.load_model", lambda chat: pytest.fail("the model was loaded"))
    assert compared(tmp_path, tmp_path / "model", f"open_ended.thought_tokens={asked}") == 2
    said = capsys.readouterr().err
    assert says.removeprefix("open_ended: ") in said and said.count("\n") == 1
