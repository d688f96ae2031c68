"""How well the model still predicts plain text: perplexity of a text file under every condition.

Each passage is put to the model as its own answer to one neutral message, so that system prompts, adapters and vectors
act exactly as while it answers: a vector from the last token of the instruction on. Each token's probability is given
all tokens before it (teacher-forced, what decoding would give). The perplexity of a cell is exp(-sum of log p / number
of tokens) over all passages (`caa_bench.analysis.metrics`); a passage's first `max_tokens` tokens count, no end token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError, too_few
from caa_bench.evaluators.base import Evaluator, Job, Pass, Row, Treatment
from caa_bench.evaluators.passages import Passage, read_passages
from caa_bench.models.prompts import prompt_and_answer
from caa_bench.storage.paths import package_folder

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.behaviors.items import Protocol
    from caa_bench.models.model import ChatModel

MESSAGE = "Tell me something."
"""What every passage answers: it asks for no behavior and for no topic."""


class Perplexity(Evaluator):
    """Reads each passage and keeps its log-probability and its number of tokens.

    Args:
        config: its recipe section.

    Example:
        >>> from caa_bench import Perplexity
        >>> Perplexity(max_tokens=64).config.max_tokens
        64
    """

    name = "perplexity"
    of_behavior = False
    shares_prefix = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Evaluator.Config):
        """Recipe section `perplexity`.

        Args:
            file: a UTF-8 text, passages separated by blank lines, each one item; "" is 54 plain facts that the embedded
                model knows. A relative path counts from the working folder.
            max_tokens: of a passage, the first so many count.
        """

        file: str = ""
        max_tokens: int = 256

        def __post_init__(self) -> None:
            if lines := too_few({"max_tokens": self.max_tokens}):
                raise ValueError("\n".join(lines))

    def settings(self) -> dict[str, Any]:
        """Without the file, whose text is in the items; with the message."""
        return {"max_tokens": self.config.max_tokens, "message": MESSAGE}

    def check(self, behavior: Behavior, chat: ChatModel, *, split: str) -> list[str]:
        """The file, and that a passage fits the model."""
        lines: list[str] = []
        try:
            self.items(behavior, split=split)
        except UserError as error:
            lines += error.lines
        room = chat.context
        if room is not None and self.config.max_tokens >= room:
            asked = f"perplexity.max_tokens: {self.config.max_tokens}, with a message in front,"
            lines.append(f"{asked} is more than the {room} tokens that the model takes; give fewer")
        return lines

    def items(self, behavior: Behavior, *, split: str) -> Sequence[Passage]:
        """The same passages for every behavior and split.

        Raises:
            UserError: the file cannot be read, or it holds no passage.
        """
        file = self.config.file
        return read_passages(Path(file) if file else package_folder() / "tiny" / "passages.txt")

    def questions(self, item: Passage, *, protocol: Protocol) -> list[str]:
        """The message that the passage answers, as one question."""
        return [f"{MESSAGE} {item.question}"]

    def evaluate(self, job: Job) -> list[Row]:
        """One row a passage and treatment; every treatment is a forward of its own."""
        from caa_bench.engine.likelihood import token_log_probs

        messages = job.base.rewrite([{"role": "user", "content": MESSAGE}])
        apart = [prompt_and_answer(job.chat.tokenizer, messages, item.question) for item in job.items]
        prompts, read = [prompt for prompt, _ in apart], [ids[: self.config.max_tokens] for _, ids in apart]
        room = job.chat.context or math.inf
        fits = [len(prompt.ids) + len(ids) <= room for prompt, ids in zip(prompts, read, strict=True)]
        wanted = [ids if fitting else () for ids, fitting in zip(read, fits, strict=True)]

        def rows_of(one: Pass) -> list[Row]:
            rows = []
            for treatment, edits in zip(one.treatments, one.edits, strict=True):
                found = token_log_probs(job.chat.model, prompts, wanted, edits, batch_size=job.prompts_per_pass)
                for item, known, fitting in zip(job.items, found, fits, strict=True):
                    rows.append(_perplexity_row(item, treatment, known, fits=fitting))
            return rows

        return job.measure(rows_of)

    def failed(self, job: Job, why: str) -> list[Row]:
        """One row a passage and treatment, without a value."""
        return [
            _perplexity_row(item, one, (), fits=True) | {"error": why} for item in job.items for one in job.treatments
        ]


def _perplexity_row(item: Passage, treatment: Treatment, log_probs: Sequence[float], *, fits: bool) -> Row:
    total = math.fsum(log_probs)
    error = None if math.isfinite(total) else "a logit is not finite"
    if not log_probs:
        error = "no token of it stands apart from the message" if fits else "longer than the model takes"
    return {
        "cell": treatment.cell,
        "item": item.id,
        "cluster": item.cluster,
        "task": "",
        "metric": "perplexity",
        "aggregation": "perplexity",
        "value": None if error else total,
        "weight": len(log_probs) or None,
        "error": error,
    }
