"""What fails in a batch by itself, at every try, takes nothing beside it with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Small, manifest

from caa_bench import Benchmark, BenchmarkArguments
from caa_bench.engine.changes import Change
from caa_bench.engine.edit import Edit
from caa_bench.interventions import CAA, Condition, Intervention
from caa_bench.models.model import ChatModel
from caa_bench.runs.rows import RowStore

EVALUATORS = ("answer_probability", "open_ended", "perplexity")


class Raises(Change):
    """Is called for a condition of its own alone."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such direction")


class Broken(Intervention):
    """A vector arm whose code raises whenever it acts."""

    name = "broken"
    role = "vector"
    trains = False

    def conditions(self, layers: Any) -> list[Condition]:
        return [Condition(layer=1, multiplier=1.0)]

    def edits(self, condition: Condition) -> list[Edit]:
        return [Edit(1, Raises())]


def compared(small: Small, folder: Path, *more: Any) -> Path:
    """A run with every evaluator that asks single questions; its folder."""
    args = BenchmarkArguments(
        draws=9,
        batch_size=8,
        limit=8,
        vectors=("caa", *(one.name for one in more)),
        bases=("none",),
        tune="off",
        report_to=(),
        output_dir=str(folder.parent / "runs"),
    )
    benchmark = Benchmark(
        str(small.model), behavior=str(small.behavior), args=args, folder=folder, progress=False,
        interventions=[CAA(multipliers=[8.0], layers=[1]), *more], evaluators=list(EVALUATORS),
    )  # fmt: skip
    benchmark.compare()
    return folder


def rows(run: Path) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """evaluator, vector, item -> rows."""
    cells = {cell["key"]: cell for cell in manifest(run)["facts"]["cells"]}
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in RowStore(run / "rows.jsonl").rows():
        cell = cells[row["cell"]]
        found.setdefault((cell["evaluator"], cell["vector"], row["item"]), []).append(row)
    return found


def test_a_vector_that_raises_leaves_the_others_their_numbers(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = rows(compared(small, tmp_path / "sound"))
    broken = rows(compared(small, tmp_path / "broken", Broken()))
    assert {name for name, _, _ in broken} == set(EVALUATORS)
    for (name, vector, item), found in broken.items():
        assert all(bool(row["error"]) == (vector == "broken") for row in found), (name, vector, item, found)
        if vector != "broken":
            assert [_numbers(row) for row in found] == [_numbers(row) for row in sound[name, vector, item]]
    assert "broken failed alone; everything beside it is measured" in caplog.text
    assert manifest(tmp_path / "broken")["status"] == "success"


def test_a_question_that_raises_leaves_the_others_their_numbers(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error names it, and a repeated run asks nothing again."""
    sound = rows(compared(small, tmp_path / "sound"))
    text = json.loads((small.behavior / "test.json").read_text())[3]["question"]
    asked: list[str] = []
    plain = ChatModel.choice_prompt

    def choice_prompt(self: ChatModel, messages: Any, letters: Any) -> Any:
        question = str(messages[-1]["content"])
        asked.append(question)
        if question.split("\n")[0] == text.split("\n")[0]:
            raise KeyError("a piece that the tokenizer has not")
        return plain(self, messages, letters)

    monkeypatch.setattr(ChatModel, "choice_prompt", choice_prompt)
    folder = compared(small, tmp_path / "broken")
    errors = {key: found for key, found in rows(folder).items() if any(row["error"] for row in found)}
    assert {(name, vector) for name, vector, _ in errors} == {("answer_probability", ""), ("answer_probability", "caa")}
    assert len({item for _, _, item in errors}) == 1
    assert all(row["error"] == "KeyError: 'a piece that the tokenizer has not'" for x in errors.values() for row in x)
    for key, found in sound.items():
        if key not in errors:
            for row, other in zip(found, rows(folder)[key], strict=True):
                assert _numbers(row) == pytest.approx(_numbers(other), abs=1e-5)
    asked.clear()
    compared(small, tmp_path / "broken")
    assert asked == []


def _numbers(row: dict[str, Any]) -> list[float]:
    if "logits" in row:
        return [*row["logits"], row["log_z"]]
    return [row["value"]] if "value" in row else [row["log_prob"], row["plain_log_prob"]]
