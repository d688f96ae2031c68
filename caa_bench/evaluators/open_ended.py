"""What the model says in its own words, and how a judge scores it (paper section 5).

All treatments of a base are rows of one decoding batch. A row keeps the text and how it was made; the judges work on
the finished rows, so that another try at a judge generates nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError, too_few
from caa_bench.evaluators.base import Aftermath, Evaluator, Job, Pass, Row, Treatment
from caa_bench.judges import Judge, registry
from caa_bench.storage.files import content_seed

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior, OpenQuestion
    from caa_bench.behaviors.items import Protocol
    from caa_bench.engine.generate import Continuation
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Prompt

DEFAULT = "default"
MOST_NEW_TOKENS = 32_768


class OpenEnded(Evaluator):
    """Asks the open-ended questions and keeps the answers.

    Args:
        config: its recipe section.
        judges: who scores the answers, the leading one first, objects or names; those that `config.judges` names where
            not given.
    """

    name = "open_ended"

    @dataclass(frozen=True, kw_only=True)
    class Config(Evaluator.Config):
        """Recipe section `open_ended`.

        Args:
            judges: who scores the answers, the leading one first; `default` is `grammar` for the embedded model's own
                behaviors, and `classifier` for all.
            max_new_tokens: length at which an answer is cut off.
            temperature: 0 always takes the likeliest token; above, tokens are drawn, repeatably by `seed`.
            stop: texts that end an answer, beside the model's own end token.
            limit: only the first so many questions; null: all.
        """

        judges: tuple[str, ...] = (DEFAULT,)
        max_new_tokens: int = 60
        temperature: float = 0.0
        stop: tuple[str, ...] = ()
        limit: int | None = None

        def __post_init__(self) -> None:
            lines = too_few({"max_new_tokens": self.max_new_tokens, "limit": self.limit})
            if self.max_new_tokens > MOST_NEW_TOKENS:
                lines.append(
                    f"max_new_tokens: {self.max_new_tokens:,} is longer than any answer; give at most "
                    f"{MOST_NEW_TOKENS:,}"
                )
            if not 0 <= self.temperature < math.inf:
                lines.append(f"temperature: {self.temperature:g} is no temperature; give 0 or more")
            if "" in self.stop:
                lines.append("stop: an empty text ends every answer; delete it")
            if lines:
                raise ValueError("\n".join(lines))

    def __init__(self, config: Any = None, *, judges: Sequence[Judge | str] = (), **settings: Any) -> None:
        named = {"judges": judges} if judges and all(isinstance(one, str) for one in judges) else {}
        super().__init__(config, **settings, **named)
        self.judges = [one for one in judges if isinstance(one, Judge)]

    @classmethod
    def build(cls, config: Any, *, data_dir: Path | None, judges: Mapping[str, Any]) -> Self:
        """With the judges that the section names."""
        known = registry()
        if config.judges == (DEFAULT,):
            return cls(config)
        unknown = [name for name in config.judges if name not in known]
        if unknown or not config.judges:
            wrong = ", ".join(map(repr, unknown)) or "an empty list"
            raise UserError(f"open_ended.judges: {wrong}: no judge; use {DEFAULT} alone, or some of {', '.join(known)}")
        return cls(config, judges=[known[name](judges.get(name)) for name in dict.fromkeys(config.judges)])

    def settings(self) -> dict[str, Any]:
        """Without the judges, who have no part in what is said."""
        return {key: value for key, value in super().settings().items() if key not in ("judges", "limit")}

    def check(self, behavior: Behavior, chat: ChatModel, *, split: str) -> list[str]:
        """Questions, and what the judges need."""
        if not behavior.open_ended:
            return [f"open_ended: {behavior.id!r} has no open_ended.json; add one, or take it out of evaluators"]
        if split != "test":
            return ["open_ended: its questions are test questions; set split=test, or take it out of evaluators"]
        room, asked = chat.context, self.config.max_new_tokens
        lines = [line for judge in self._judges(behavior, chat) for line in judge.check(behavior)]
        if room is not None and asked >= room:
            lines.append(f"open_ended.max_new_tokens: {asked:,} leave no room for a question in {room:,}; lower it")
        return lines

    def items(self, behavior: Behavior, *, split: str) -> Sequence[OpenQuestion]:
        """The behavior's open-ended questions."""
        return behavior.open_ended[: self.config.limit]

    def questions(self, item: OpenQuestion, *, protocol: Protocol) -> list[str]:
        """The question as it stands."""
        return [item.question]

    def decoded(self) -> int:
        """The longest answer."""
        return int(self.config.max_new_tokens)

    def costs(self, behavior: Behavior, chat: ChatModel, *, items: int, cells: int) -> list[str]:
        """Tokens to decode, and what the judges say."""
        answers = items * cells
        said = f"open_ended: {items} questions x {cells} cells = {answers:,} answers of at most "
        said += f"{self.config.max_new_tokens} tokens"
        return [said, *(x for one in self._judges(behavior, chat) for x in one.costs(behavior, answers=answers))]

    def evaluate(self, job: Job) -> list[Row]:
        """One row a question and treatment."""
        from caa_bench.engine.generate import generate
        from caa_bench.engine.likelihood import token_log_probs

        ids: list[tuple[int, ...]] = []
        prompts = [_prompt(job, item.question, plain=False) for item in job.items]

        def rows_of(one: Pass) -> list[Row]:
            seeds = [[self._seed(job, item, treatment) for treatment in one.treatments] for item in job.items]
            said = generate(
                job.chat.model,
                prompts,
                one.edits,
                max_new_tokens=self.config.max_new_tokens,
                stop_ids=job.chat.stop_ids,
                temperature=self.config.temperature,
                seeds=seeds,
                batch_size=job.prompts_per_pass,
                share_prefix=job.share_prefix,
            )
            rows = []
            for n, item in enumerate(job.items):
                for c, treatment in enumerate(one.treatments):
                    answer = cut(said[n][c], stop=self.config.stop, chat=job.chat)
                    ids.append(answer.ids)
                    rows.append(self._row(item, treatment, answer, seed=seeds[n][c], chat=job.chat))
            return rows

        rows = job.measure(rows_of)
        # Out here nothing is attached any more: the model is the plain one.
        plain = [_prompt(job, row["question"], plain=True) for row in rows]
        known = token_log_probs(job.chat.model, plain, ids, batch_size=job.prompts_per_pass)
        for row, log_probs in zip(rows, known, strict=True):
            row["plain_log_prob"] = _sum(log_probs)
        return rows

    def failed(self, job: Job, why: str) -> list[Row]:
        """One row a question and treatment, without a text."""
        from caa_bench.engine.generate import Continuation

        nothing = Continuation(ids=(), ended="length", log_probs=(math.nan,))
        return [
            self._row(item, one, nothing, seed=self._seed(job, item, one), chat=job.chat) | {"error": why}
            for item in job.items
            for one in job.treatments
        ]

    def afterwards(self, work: Aftermath) -> list[str]:
        """Let the judges score what they have not scored yet."""
        from caa_bench.evaluators.judging import judge_answers

        return judge_answers(self._judges(work.behavior, work.chat), work)

    def _judges(self, behavior: Behavior, chat: ChatModel) -> list[Judge]:
        if self.judges:
            return self.judges
        known = registry()
        embedded = chat.loading.source == "package:tiny" and not known["grammar"]().check(behavior)
        return [known[name]() for name in (("grammar",) if embedded else ()) + ("classifier",)]

    def _seed(self, job: Job, item: OpenQuestion, treatment: Treatment) -> int:
        """Of one row's own generator: the same alone and in any batch, another for every question and condition."""
        on_top = None if treatment.intervention is None else treatment.intervention.label
        condition = [job.base.label, asdict(job.dose), on_top, asdict(treatment.condition)]
        return content_seed([job.seed, item.question, condition])

    def _row(
        self, item: OpenQuestion, treatment: Treatment, answer: Continuation, *, seed: int, chat: ChatModel
    ) -> Row:
        log_prob = _sum(answer.log_probs)
        finite = log_prob is not None
        return {
            "cell": treatment.cell,
            "item": item.id,
            "cluster": item.cluster,
            "question": item.question,
            "text": chat.text_of(answer.ids) if finite else None,
            "tokens": len(answer.ids),
            "ended": answer.ended,
            "temperature": self.config.temperature,
            "max_new_tokens": self.config.max_new_tokens,
            "seed": seed if self.config.temperature > 0 else None,
            "log_prob": log_prob,
            "plain_log_prob": None,
            "error": None if finite else "a logit is not finite",
        }


def cut(answer: Continuation, *, stop: Sequence[str], chat: ChatModel) -> Continuation:
    """The tokens in front of the first stop text, or the answer itself where none stands in it."""
    from caa_bench.engine.generate import Continuation

    text = chat.tokenizer.decode(answer.ids) if stop else ""
    places = [text.index(end) for end in stop if end in text]
    if not places:
        return answer
    # A stop text may begin inside a token, which then goes with it.
    lengths = [len(chat.tokenizer.decode(answer.ids[:count])) for count in range(len(answer.ids) + 1)]
    kept = max(count for count, length in enumerate(lengths) if length <= min(places))
    return Continuation(ids=answer.ids[:kept], ended="stop", log_probs=answer.log_probs[:kept])


def _prompt(job: Job, question: str, *, plain: bool) -> Prompt:
    from caa_bench.models.prompts import chat_prompt

    messages = [{"role": "user", "content": question}]
    return chat_prompt(job.chat.tokenizer, messages if plain else job.base.rewrite(messages))


def _sum(log_probs: Sequence[float]) -> float | None:
    total = sum(log_probs)
    return total if math.isfinite(total) else None
