"""Answers -> judgements on the disk: each different answer once a judge, and only what is not there yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.evaluators.base import Aftermath, Row
from caa_bench.judges import Asked, Judge, Judgement, registry
from caa_bench.judges.judgements import FILE, Judgements, judgement_key
from caa_bench.storage.row_kinds import THOUGHT

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

logger = logging.getLogger(__name__)

DEFAULT = "default"
WRITE_EVERY_S = 1.0
"""Local judges say thousands of things a second; each write waits for the disk."""


def judge_answers(judges: Sequence[Judge], work: Aftermath) -> list[str]:
    """Let every judge score every answer that it has not scored; the run's facts then name the judges.

    Returns:
        One line a judge that left answers out; what it did say is kept.

    Raises:
        SystemExit: a stop was asked for; what is judged is on the disk.
    """
    kept = Judgements(work.run.path / FILE)
    asked = answers_to_judge(work.rows.answers())
    facts: list[dict[str, Any]] = []
    order: dict[str, list[str]] = {}
    missing: list[str] = []
    for judge in judges:
        settings = judge.settings(work.behavior)
        facts.append({"name": judge.name, "settings": settings} | judge.reliability(work.behavior))
        order[judge.name] = [judgement_key(settings, one) for one in asked]
        said = kept.of(judge.name)
        waiting = [
            (key, one)
            for key, one in zip(order[judge.name], asked, strict=True)
            if key not in said or not judge.finished(said[key])
        ]
        if waiting:
            missing += _judge(judge, waiting, kept, work)
    kept.rewrite_in_order(order)
    work.run.record(judges=facts)
    return missing


def judges_named(names: Sequence[str], configs: Mapping[str, Any]) -> list[Judge]:
    """A judge for each name in `open_ended.judges`, with its section of the recipe.

    Raises:
        UserError: a name that no judge has, or none at all.
    """
    known = registry()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = ", ".join(map(repr, unknown)) or "an empty list"
        raise UserError(f"open_ended.judges: {wrong}: no judge; use {DEFAULT} alone, or some of {', '.join(known)}")
    return [known[name](configs.get(name)) for name in dict.fromkeys(names)]


def default_judges(behavior: Behavior, chat: ChatModel) -> list[Judge]:
    """The grammar where the embedded model speaks its own language, and the classifier."""
    known = registry()
    embedded = chat.embedded and not known["grammar"]().check(behavior)
    return [known[name]() for name in (("grammar",) if embedded else ()) + ("classifier",)]


def answers_to_judge(rows: Sequence[Row]) -> list[Asked]:
    """Every different answer, in the rows' order. An empty one says nothing that could be judged."""
    found = (Asked(question=row["question"], text=row["text"]) for row in rows if row["text"])
    return list(dict.fromkeys(found))


def only_thoughts(rows: Iterable[Row], *, most: int) -> str:
    """A line where answers are nothing but a thought, in which there is nothing to judge; "" elsewhere.

    Args:
        most: tokens that an answer may have.
    """
    texts = [(row["text"], row.get(THOUGHT)) for row in rows]
    cut = sum(bool(thought) and text == "" for text, thought in texts)
    if not cut:
        return ""
    return (
        f"open_ended: {cut} of {len(texts)} answers are a thought that {most} tokens did not end, so there is nothing "
        "to judge in them; raise open_ended.max_new_tokens"
    )


def _judge(judge: Judge, waiting: Sequence[tuple[str, Asked]], kept: Judgements, work: Aftermath) -> Iterator[str]:
    """One judge's turn, written as it comes in; one line if something is left out."""
    unwritten: list[tuple[str, Judgement]] = []
    written = time.monotonic()
    said = judge.judge([one for _, one in waiting], behavior=work.behavior, chat=work.chat)
    try:
        for place, judgement in said:
            unwritten.append((waiting[place][0], judgement))
            if time.monotonic() - written >= WRITE_EVERY_S:
                kept.append(judge.name, unwritten)
                unwritten, written = [], time.monotonic()
            work.stop.leave_if_asked()
    finally:
        said.close()  # now, and not when it is collected: it may have requests under way
        kept.append(judge.name, unwritten)
    known = kept.of(judge.name)
    left = sum(key not in known or not judge.finished(known[key]) for key, _ in waiting)
    if left:
        why = ", ".join(judge.complaints()) or "no reason given"
        yield (
            f"judge {judge.name}: {left} of {len(waiting)} answers have no judgement ({why}); "
            "the next run asks for these alone"
        )
