"""Answers in words put into a simulated run folder: rows and judgements as the real stores keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from small_runs import manifest

from caa_bench.judges import Asked, Judgement
from caa_bench.judges.judgements import Judgements, judgement_key
from caa_bench.runs.folder import RowStore, RunFolder


def answer_row(cell: str, number: int, text: str | None, *, question: str = "?") -> dict[str, Any]:
    """One row; an error without a text."""
    return {
        "cell": cell,
        "item": f"i{number:02d}",
        "cluster": f"i{number:02d}",
        "question": question,
        "text": text,
        "tokens": 4,
        "ended": "stop",
        "temperature": 0.0,
        "max_new_tokens": 60,
        "seed": None,
        "log_prob": -4.0,
        "plain_log_prob": -4.0,
        "error": None if text is not None else "a logit is not finite",
    }


def add_answers(
    run: Path,
    score: Callable[[Mapping[str, Any], int], float],
    *,
    questions: Sequence[str],
    judge: Mapping[str, Any],
    server: Callable[[Mapping[str, Any]], str] = lambda cell: "",
) -> Path:
    """Let every A/B cell of a run speak too, and a judge score what it says.

    Args:
        score: of a cell's dictionary and a question's number.
        judge: its facts: `name` and `settings`.
        server: of a cell's dictionary, what its rows say of the server that generated them; "" for this machine.
    """
    facts = manifest(run)["facts"]
    cells = [x for x in facts["cells"] if x["evaluator"] == "answer_probability"]
    spoken = [cell | {"key": f"words{n}", "evaluator": "open_ended"} for n, cell in enumerate(cells)]
    rows, pairs = [], {}
    for cell in spoken:
        for n, question in enumerate(questions):
            given = score(cell, n)
            text = f"my score is {given:.4f}"
            there = server(cell)
            rows.append(answer_row(cell["key"], n, text, question=question) | ({"server": there} if there else {}))
            key = judgement_key(judge["settings"], Asked(question=question, text=text))
            pairs[key] = Judgement(score=round(given, 4))
    RowStore(run / "rows.jsonl").append("answers", rows)
    with RunFolder(run, recipe=manifest(run)["recipe"]) as folder:
        folder.record(cells=facts["cells"] + spoken, batches=[*facts["batches"], "answers"], judges=[dict(judge)])
        folder.set_status("success")
    Judgements(run / "judgements.jsonl").append(str(judge["name"]), sorted(pairs.items()))
    return run


def speak(run: Path, push: Callable[[Mapping[str, Any]], float], *, questions: int = 24) -> Path:
    """`add_answers` with the grammar as judge: its score is .5 + what `push` says of the cell, and a little spread."""
    judge = {"name": "grammar", "settings": {}}
    return add_answers(run, lambda cell, n: 0.5 + push(cell) + 0.01 * (n % 7), questions=["?"] * questions, judge=judge)
