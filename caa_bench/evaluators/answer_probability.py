"""The probability of each answer letter, every item in both option orders (paper section 4; NUMBERS 1-4 in analysis).

A row keeps the raw letter logits in fp32 and the log of the softmax's denominator: log-odds, p(matching), letter bias
and option mass are all computed from these in `caa_bench.analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.behaviors.behavior import Behavior, Item, Variant, variants
from caa_bench.evaluators.base import Evaluator, Job, Pass, Row, Treatment

if TYPE_CHECKING:
    from caa_bench.engine.score import Scores


class AnswerProbability(Evaluator):
    """Asks each item in every order and reads the logits of its option letters at the last position.

    Example:
        >>> from caa_bench import AnswerProbability
        >>> AnswerProbability(multipliers=[-1, 1]).config.multipliers
        (-1.0, 1.0)
    """

    name = "answer_probability"

    def items(self, behavior: Behavior, *, split: str) -> Sequence[Item]:
        """The A/B items of the split."""
        return behavior.selection if split == "selection" else behavior.test

    def evaluate(self, job: Job) -> list[Row]:
        """All treatments of the batch; a row is an error where a logit is not finite."""
        from caa_bench.engine.score import score

        asked = [(item, variant) for item in job.items for variant in variants(item, protocol=job.protocol)]
        prompts = [
            job.chat.choice_prompt(job.base.rewrite([{"role": "user", "content": variant.question}]), variant.letters)
            for _, variant in asked
        ]

        def rows_of(one: Pass) -> list[Row]:
            scores = score(
                job.chat.model, prompts, one.edits, batch_size=job.prompts_per_pass, share_prefix=job.share_prefix
            )
            return _rows(asked, one.treatments, scores)

        return job.measure(rows_of)

    def failed(self, job: Job, why: str) -> list[Row]:
        """One row an item, order and treatment, without logits."""
        asked = [(item, variant) for item in job.items for variant in variants(item, protocol=job.protocol)]
        return [
            _row(item, variant, treatment) | {"error": why} for item, variant in asked for treatment in job.treatments
        ]


def _rows(asked: Sequence[tuple[Item, Variant]], treatments: Sequence[Treatment], scores: Scores) -> list[Row]:
    logits, log_z = scores.logits.tolist(), scores.log_z.tolist()
    rows = []
    for n, (item, variant) in enumerate(asked):
        for c, treatment in enumerate(treatments):
            letters, row = logits[n][c][: len(variant.letters)], _row(item, variant, treatment)
            if all(map(math.isfinite, letters)) and math.isfinite(log_z[n][c]):
                row |= {"logits": letters, "log_z": log_z[n][c], "error": None}
            rows.append(row)
    return rows


def _row(item: Item, variant: Variant, treatment: Treatment) -> Row:
    """A row before anything is measured."""
    return {
        "cell": treatment.cell,
        "item": item.id,
        "cluster": item.cluster,
        "order": variant.order,
        "matching": variant.matching,
        "letters": "".join(variant.letters),
        "logits": None,
        "log_z": None,
        "error": "a logit is not finite",
    }
