"""What the model says in its own words, and how a judge scores it (paper section 5).

All treatments of a base are rows of one decoding batch. A row keeps the text and how it was made; the judges work on
the finished rows, so that another try at a judge generates nothing again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import too_few
from caa_bench.evaluators.base import Aftermath, Evaluator, Job, Pass, Row, Treatment
from caa_bench.evaluators.judging import DEFAULT, default_judges, judges_named
from caa_bench.evaluators.server import Server
from caa_bench.evaluators.spoken import Manner, Said, spoken
from caa_bench.judges import Judge
from caa_bench.models.prompts import after_thought, chat_prompt, thinking_prompt
from caa_bench.models.turns import answer_form
from caa_bench.storage.files import content_seed

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior, OpenQuestion
    from caa_bench.behaviors.items import Protocol
    from caa_bench.evaluators.served.trust import Trusted
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Prompt

logger = logging.getLogger(__name__)
MOST_NEW_TOKENS = 32_768


class OpenEnded(Evaluator):
    """Asks the open-ended questions and keeps the answers.

    Args:
        config: its recipe section.
        judges: who scores the answers, the leading one first, objects or names; those that `config.judges` names where
            not given.

    Example:
        >>> from caa_bench import OpenEnded
        >>> OpenEnded(max_new_tokens=40, judges=["classifier"]).config.max_new_tokens
        40
    """

    name = "open_ended"

    @dataclass(frozen=True, kw_only=True)
    class Config(Evaluator.Config):
        """Recipe section `open_ended`.

        Args:
            judges: who scores the answers, the leading one first; `default` is `grammar` for the embedded model's own
                behaviors, and `classifier` for all.
            max_new_tokens: length at which an answer is cut off.
            thought_tokens: length at which the thought before it is ended, for a model whose chat template opens one;
                it is kept apart and not judged. 0 ends it before it has begun.
            temperature: 0 always takes the likeliest token; above, tokens are drawn, repeatably by `seed`.
            stop: texts that end an answer, beside the model's own end token.
            limit: only the first so many questions; null: all.
            server: who generates the answers in this machine's place, where that can be (`evaluators.server`).
        """

        judges: tuple[str, ...] = (DEFAULT,)
        max_new_tokens: int = 60
        thought_tokens: int = 0
        temperature: float = 0.0
        stop: tuple[str, ...] = ()
        limit: int | None = None
        server: Server = field(default_factory=Server)

        def __post_init__(self) -> None:
            lines = too_few({"max_new_tokens": self.max_new_tokens, "limit": self.limit})
            for key in ("max_new_tokens", "thought_tokens"):
                if (asked := getattr(self, key)) > MOST_NEW_TOKENS:
                    lines.append(f"{key}: {asked:,} is longer than any answer; give at most {MOST_NEW_TOKENS:,}")
            if self.thought_tokens < 0:
                lines.append(f"thought_tokens: {self.thought_tokens} is too few; give 0 or more")
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
        self._server: Trusted | None = None

    @classmethod
    def build(cls, config: Any, *, data_dir: Path | None, judges: Mapping[str, Any]) -> Self:
        """With the judges that the section names."""
        return cls(config, judges=[] if config.judges == (DEFAULT,) else judges_named(config.judges, judges))

    def settings(self) -> dict[str, Any]:
        """Without the judges, who have no part in what is said, and without a thought or a server that there is not."""
        own = self.config
        aside = {"judges", "limit", "server"} | (set() if own.thought_tokens else {"thought_tokens"})
        return {key: value for key, value in super().settings().items() if key not in aside} | own.server.settings()

    def check(self, behavior: Behavior, chat: ChatModel, *, split: str) -> list[str]:
        """Questions, and what the judges need."""
        if not behavior.open_ended:
            return [f"open_ended: {behavior.id!r} has no open_ended.json; add one, or take it out of evaluators"]
        if split != "test":
            return ["open_ended: its questions are test questions; set split=test, or take it out of evaluators"]
        room, asked = chat.context, self.decoded()
        judges, sliced = self._judges(behavior, chat), chat.loading.parallel != "none"
        lines = [line for judge in judges for line in judge.check(behavior) or (judge.check_slices() if sliced else [])]
        lines += self.config.server.problems()
        if room is not None and asked >= room:
            lines.append(f"open_ended.max_new_tokens: {asked:,} leave no room for a question in {room:,}; lower it")
        if self.config.thought_tokens and not lines and not answer_form(chat.tokenizer).opens_thought:
            lines.append(
                f"open_ended.thought_tokens: the chat template of {chat.name!r} opens no thought, so there is none to "
                "wait for; set it to 0"
            )
        return lines

    def items(self, behavior: Behavior, *, split: str) -> Sequence[OpenQuestion]:
        """The behavior's open-ended questions."""
        return behavior.open_ended[: self.config.limit]

    def questions(self, item: OpenQuestion, *, protocol: Protocol) -> list[str]:
        """The question as it stands."""
        return [item.question]

    def decoded(self) -> int:
        """How many tokens are decoded for a thought and its answer at most."""
        return int(self.config.thought_tokens + self.config.max_new_tokens)

    def costs(self, behavior: Behavior, chat: ChatModel, *, items: int, cells: int) -> list[str]:
        """Tokens to decode, and what the judges say."""
        answers = items * cells
        said = f"open_ended: {items} questions x {cells} cells = {answers:,} answers of at most "
        said += f"{self.config.max_new_tokens} tokens"
        said += f" behind thoughts of at most {self.config.thought_tokens}" if self.config.thought_tokens else ""
        said += self.config.server.costs()
        return [said, *(x for one in self._judges(behavior, chat) for x in one.costs(behavior, answers=answers))]

    def beforehand(self, jobs: Sequence[Job]) -> None:
        """Compares the server with this machine, where there is one."""
        if self.config.server.base_url:
            from caa_bench.evaluators.served.trust import trusted

            self._server = trusted(self.config.server, jobs, self._prompts, most=self.config.max_new_tokens)

    def evaluate(self, job: Job) -> list[Row]:
        """One row a question and treatment."""
        from caa_bench.engine.likelihood import token_log_probs

        if self.config.server.base_url and self._server is None:
            self.beforehand([job])
        thinks, known = self.config.thought_tokens > 0, list[Said]()
        prompts = self._prompts(job)

        def rows_of(one: Pass) -> list[Row]:
            seeds = [[self._seed(job, item, treatment) for treatment in one.treatments] for item in job.items]
            server = None if one.attached else self._server  # no server has what is attached to the model here
            said = spoken(job, prompts, one.edits, manner=self._manner, seeds=seeds, say=server.say if server else None)
            known.extend(x for row in said for x in row)
            notes = [server.note(edits) if server else {} for edits in one.edits]
            return [
                self._row(item, treatment, said[n][c], seed=seeds[n][c], chat=job.chat) | notes[c]
                for n, item in enumerate(job.items)
                for c, treatment in enumerate(one.treatments)
            ]

        rows = job.measure(rows_of)
        # Out here nothing is attached any more: the model is the plain one.
        plain = [_prompt(job, row["question"], plain=True, thinks=thinks) for row in rows]
        if thinks:
            plain = [after_thought(job.chat.tokenizer, p, x.thought or ()) for p, x in zip(plain, known, strict=True)]
        answers = [one.answer.ids for one in known]
        found = token_log_probs(job.chat.model, plain, answers, batch_size=job.prompts_per_pass)
        for row, log_probs in zip(rows, found, strict=True):
            row["plain_log_prob"] = _sum(log_probs)
        return rows

    def failed(self, job: Job, why: str) -> list[Row]:
        """One row a question and treatment, without a text."""
        from caa_bench.engine.generate import Continuation

        nothing = Said(thought=None, answer=Continuation(ids=(), ended="length", log_probs=(math.nan,)))
        return [
            self._row(item, one, nothing, seed=self._seed(job, item, one), chat=job.chat) | {"error": why}
            for item in job.items
            for one in job.treatments
        ]

    def afterwards(self, work: Aftermath) -> list[str]:
        """Let the judges score what they have not scored yet."""
        from caa_bench.evaluators.judging import judge_answers, only_thoughts

        if line := only_thoughts(work.rows.answers(), most=self.decoded()):
            logger.warning(line)
        return judge_answers(self._judges(work.behavior, work.chat), work)

    def _judges(self, behavior: Behavior, chat: ChatModel) -> list[Judge]:
        return self.judges or default_judges(behavior, chat)

    def _prompts(self, job: Job) -> list[Prompt]:
        return [_prompt(job, item.question, plain=False, thinks=self.config.thought_tokens > 0) for item in job.items]

    def _seed(self, job: Job, item: OpenQuestion, treatment: Treatment) -> int:
        """Of one row's own generator: the same alone and in any batch, another for every question and condition."""
        on_top = None if treatment.intervention is None else treatment.intervention.label
        condition = [job.base.label, asdict(job.dose), on_top, asdict(treatment.condition)]
        return content_seed([job.seed, item.question, condition])

    @property
    def _manner(self) -> Manner:
        own = self.config
        lengths = {"max_new_tokens": own.max_new_tokens, "thought_tokens": own.thought_tokens}
        return Manner(**lengths, temperature=own.temperature, stop=own.stop)

    def _row(self, item: OpenQuestion, treatment: Treatment, said: Said, *, seed: int, chat: ChatModel) -> Row:
        answer, log_prob = said.answer, _sum(said.answer.log_probs)
        finite = log_prob is not None
        return (said.texts(chat) if finite else {"text": None}) | {
            "cell": treatment.cell,
            "item": item.id,
            "cluster": item.cluster,
            "question": item.question,
            "tokens": len(answer.ids),
            "ended": answer.ended,
            "temperature": self.config.temperature,
            "max_new_tokens": self.config.max_new_tokens,
            "seed": seed if self.config.temperature > 0 else None,
            "log_prob": log_prob,
            "plain_log_prob": None,
            "error": None if finite else "a logit is not finite",
        }


def _prompt(job: Job, question: str, *, plain: bool, thinks: bool) -> Prompt:
    messages = [{"role": "user", "content": question}]
    asked = messages if plain else job.base.rewrite(messages)
    return (thinking_prompt if thinks else chat_prompt)(job.chat.tokenizer, asked)


def _sum(log_probs: Sequence[float]) -> float | None:
    total = sum(log_probs)
    return total if math.isfinite(total) else None
