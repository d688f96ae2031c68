"""One family through the whole product: a tiny model on disk -> `compare` -> an outcome in words, checked by hand.

What a run says is held against the plainest computation there is: one prompt, unpadded, uncached, token by token.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chat_tokenizers import chatml_tokenizer
from random_models import random_model

from caa_bench.__main__ import main
from caa_bench.behaviors.behavior import load_behavior, variants
from caa_bench.evaluators.perplexity import MESSAGE, Perplexity
from caa_bench.models.model import ChatModel
from caa_bench.models.prompts import chat_prompt, choice_prompt, prompt_and_answer
from caa_bench.runs.folder import RowStore

CLOSE = 2e-3
"""Of probabilities against the plain computation; these models' kernels sum in chunks."""
NEW_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one family.

    Args:
        family: its `model_type`.
        result: `runs`, `runs without lora_sft`, or `refused`.
        said: the line that refuses it or its adapter; "" where there is none.
    """

    family: str
    result: str
    said: str = ""


def outcome(family: str, settings: dict[str, Any], *, behavior: Path, folder: Path) -> Outcome:
    """Run one family; raises AssertionError where it does not end in a right result or in one clear line."""
    tokenizer = chatml_tokenizer()
    random_model(family, layers=2, hidden=64, vocab=len(tokenizer), **settings).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    both = _compare(folder, behavior, bases="none, lora_sft_positive")
    if both == "":
        _check(folder, behavior)
        return Outcome(family=family, result="runs")
    shutil.rmtree(folder / "run", ignore_errors=True)  # it holds another recipe
    alone = _compare(folder, behavior, bases="none")
    if alone == "":
        assert both.startswith("lora_sft"), both
        _check(folder, behavior)
        return Outcome(family=family, result="runs without lora_sft", said=both)
    return Outcome(family=family, result="refused", said=alone)


def _compare(folder: Path, behavior: Path, *, bases: str) -> str:
    """ "" where everything is measured; else the one line that was said, exit 2."""
    said, settings = (
        io.StringIO(),
        {
            "model": folder / "model",
            "behavior": behavior,
            "bases": f"[{bases}]",
            "vectors": "[caa]",
            "evaluators": "[answer_probability, open_ended, perplexity]",
            "open_ended.max_new_tokens": NEW_TOKENS,
            "caa.layers": "[1]",
            "caa.multipliers": "[-8, 8]",
            "lora_sft.learning_rate": "0.01",
            "tune": "off",
            "max_pairs": 8,
            "limit": 6,
            "draws": 9,
            "report_to": "[]",
            "output_dir": folder / "runs",
        },
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(
            ["compare", "--output", str(folder / "run"), *(f"{key}={value}" for key, value in settings.items())]
        )
    if code == 0:
        return ""
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("fit ")]  # how far it has come
    assert code == 2 and len(lines) == 1 and "Traceback" not in lines[0], f"exit {code}: {said.getvalue()[-3000:]}"
    return lines[0].removeprefix("caa-bench: ")


def _check(folder: Path, behavior: Path) -> None:
    """Every row is there without an error, steering moves, and what the model says by itself is what it says alone."""
    cells = {cell["key"]: cell for cell in json.loads((folder / "run/manifest.json").read_text())["facts"]["cells"]}
    rows = list(RowStore(folder / "run" / "rows.jsonl").rows())
    assert not (errors := {row["error"] for row in rows if row.get("error")}), errors
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        cell = cells[row["cell"]]
        found.setdefault((cell["evaluator"], cell["base"], cell["vector"], cell["multiplier"]), []).append(row)
    assert {key[0] for key in found} == {"answer_probability", "open_ended", "perplexity"}
    for name, value in (("answer_probability", "logits"), ("perplexity", "value")):
        alone, low, high = (found[name, "none", *which] for which in (("", 0), ("caa", -8), ("caa", 8)))
        assert len(alone) == len(low) == len(high) >= 6
        assert all(one[value] != other[value] for one, other in zip(alone, low, strict=True)), "steering moves nothing"
        assert all(one[value] != other[value] for one, other in zip(low, high, strict=True))
    plain = Plain(ChatModel.find(str(folder / "model")))
    items = {item.id: item for item in load_behavior(behavior).test}
    for row in found["answer_probability", "none", "", 0]:
        plain.same_letters(row, variants(items[row["item"]])[row["order"]])
    for row in found["open_ended", "none", "", 0]:
        plain.same_words(row)
    passages = {passage.id: passage for passage in Perplexity().items(load_behavior(behavior), split="test")}
    for row in found["perplexity", "none", "", 0][:3]:
        plain.same_perplexity(row, passages[row["item"]].question)


class Plain:
    """The plainest computation: one unpadded prompt, no cache, no mask, no positions.

    Args:
        chat: the saved model.
    """

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """log p of the token after each. [T, V]"""
        with torch.no_grad():
            return self.chat.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].log_softmax(-1)

    def same_letters(self, row: dict[str, Any], asked: Any) -> None:
        """p of each letter."""
        prompt = choice_prompt(self.chat.tokenizer, [{"role": "user", "content": asked.question}], asked.letters)
        wanted = self.log_probs(prompt.ids)[-1, list(prompt.candidates)].exp()
        torch.testing.assert_close(
            (torch.tensor(row["logits"]) - row["log_z"]).exp(), wanted, atol=CLOSE * float(wanted.max()), rtol=0
        )

    def same_words(self, row: dict[str, Any]) -> None:
        """The likeliest tokens, one after the other; their probability where two are as good as equal."""
        ids = list(chat_prompt(self.chat.tokenizer, [{"role": "user", "content": row["question"]}]).ids)
        begun, total = len(ids), 0.0
        for _ in range(NEW_TOKENS):
            best = self.log_probs(ids)[-1].max(-1)
            if int(best.indices) in self.chat.stop_ids:
                break
            ids.append(int(best.indices))
            total += float(best.values)
        assert self.chat.text_of(ids[begun:]) == row["text"]
        assert abs(row["log_prob"] - total) < NEW_TOKENS * CLOSE and abs(row["plain_log_prob"] - total) < 5 * CLOSE

    def same_perplexity(self, row: dict[str, Any], text: str) -> None:
        """log p of the passage behind its message."""
        asked = [{"role": "user", "content": MESSAGE}]
        prompt, said = prompt_and_answer(self.chat.tokenizer, asked, text)
        ids = (*prompt.ids, *said)
        known = self.log_probs(ids)[len(prompt.ids) - 1 : -1].gather(-1, torch.tensor(said)[:, None])
        assert row["weight"] == len(said)
        assert abs(float(known.sum()) - row["value"]) < CLOSE * len(said)
