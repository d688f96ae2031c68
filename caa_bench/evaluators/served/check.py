"""A few answers generated there and here, steered and not, before a server is trusted: greedy, token by token.

A server may have other weights, draw where it should not, ignore the vectors, or count layers from 1; none of that
would raise an error. Every token must be about as likely there as here, and where both first differ, the token from
there about as likely here as the likeliest one: servers that compute in another order break near ties otherwise.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from caa_bench.engine.changes import Add
from caa_bench.engine.easysteer import can_be_sent
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation, generate
from caa_bench.engine.likelihood import token_log_probs
from caa_bench.errors import UserError
from caa_bench.evaluators.base import Job, Treatment
from caa_bench.evaluators.served.generation import ServedGeneration
from caa_bench.models.prompts import Prompt

logger = logging.getLogger(__name__)
MOST_TOKENS, MOST_CONDITIONS = 32, 6
SCALES = (1, 2, 4, 8, 16, 32, 64)
"""Times its dose: a vector is checked where it changes half of the answers, so that one left out is seen."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the check found.

    Args:
        answers: that were generated at both places.
        equal: those that are the same there, token by token.
    """

    answers: int
    equal: int

    def __str__(self) -> str:
        apart = self.answers - self.equal
        ties = f", {apart} part at a near tie" if apart else ""
        return f"{self.equal} of {self.answers} checked answers equal{ties}"


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One answer at both places; `gap` is in nats."""

    steered: bool
    gap: float
    equal: bool


def check_server(say: ServedGeneration, job: Job, prompts: Sequence[Prompt], *, max_new_tokens: int) -> Checked:
    """Compare the server with this machine on the prompts, unsteered and under the job's vectors.

    Args:
        say: the server.
        job: whose base can be sent.
        prompts: under that base.
        max_new_tokens: of one answer; MOST_TOKENS at most are compared.

    Raises:
        UserError: it cannot be reached, it says something else, or no vector changes an answer.
    """
    chat = job.chat
    decoding: dict[str, Any] = {"max_new_tokens": min(max_new_tokens, MOST_TOKENS), "stop_ids": chat.stop_ids}
    base = list(job.base.edits(job.dose) or [])
    (plain,) = zip(*generate(chat.model, prompts, [base], **decoding), strict=True)
    conditions, ours = [base], [plain]
    for treatment in _strongest(job):
        edits, said = _telling(treatment, base, prompts, plain, model=chat.model, decoding=decoding)
        conditions.append(edits)
        ours.append(said)
    try:
        theirs = list(zip(*say(chat.model, prompts, conditions, **decoding), strict=True))
    except ConnectionError as error:
        raise UserError(f"{error}; start the server, or leave base_url empty to generate here") from None
    pairs = [
        _Pair(steered=c > 0, equal=_equal(own, other), gap=_gap(chat, prompt, conditions[c], own, other))
        for c in range(len(conditions))
        for prompt, own, other in zip(prompts, ours[c], theirs[c], strict=True)
    ]
    _refuse_unlike(pairs, allowed=say.server.check_nats, ignored=len(theirs) > 1 and len(set(theirs)) == 1)
    return Checked(answers=len(pairs), equal=sum(one.equal for one in pairs))


def _refuse_unlike(pairs: Sequence[_Pair], *, allowed: float, ignored: bool) -> None:
    wrong = [one for one in pairs if one.gap > allowed]
    if not wrong:
        return
    if ignored:
        why = (
            "it says the same with and without vectors: it does not steer (vLLM needs EasySteer, --enable-steer-vector)"
        )
    elif not all(one.steered for one in wrong):
        why = "they differ without a vector already: other weights, another dtype, or settings of its own"
    else:
        why = "without a vector they agree: it reads layer, positions or dose in another way"
    gap = max(one.gap for one in wrong)
    raise UserError(
        f"open_ended.server: {len(wrong)} of {len(pairs)} checked answers are not what this machine generates (up to "
        f"{gap:.2g} nats apart, {allowed:g} allowed by check_nats); {why}; leave base_url empty to generate here"
    )


def _strongest(job: Job) -> list[Treatment]:
    """Each vector at each layer once, at its largest dose; placebos behind the others, MOST_CONDITIONS at most."""
    found: dict[tuple[str, int | None], Treatment] = {}
    for one in job.treatments:
        edits = [] if one.intervention is None else one.intervention.edits(one.condition)
        if one.intervention is None or not edits or not can_be_sent(edits):
            continue
        key = (one.intervention.label, one.condition.layer)
        if key not in found or abs(one.condition.multiplier) > abs(found[key].condition.multiplier):
            found[key] = one
    return sorted(found.values(), key=lambda one: bool(one.intervention and one.intervention.is_placebo))[
        :MOST_CONDITIONS
    ]


def _telling(
    treatment: Treatment,
    base: Sequence[Edit],
    prompts: Sequence[Prompt],
    plain: Sequence[Continuation],
    *,
    model: nn.Module,
    decoding: dict[str, Any],
) -> tuple[list[Edit], tuple[Continuation, ...]]:
    """The vector at the first of SCALES that changes half of the answers, and what is said under it.

    Raises:
        UserError: none does.
    """
    vector = treatment.intervention
    own = [] if vector is None else vector.edits(treatment.condition) or []
    for scale in SCALES:
        scaled = [replace(one, change=Add(scale * one.change.delta)) for one in own if isinstance(one.change, Add)]
        edits = [*base, *scaled]
        (said,) = zip(*generate(model, prompts, [edits], **decoding), strict=True)
        if 2 * sum(map(_equal, said, plain)) <= len(prompts):
            return edits, said
    raise UserError(
        f"open_ended.server: {'' if vector is None else vector.label} changes too few answers even at {SCALES[-1]} "
        "times its dose, so the check cannot tell whether the server steers; raise check_questions, or generate here"
    )


def _equal(one: Continuation, other: Continuation) -> bool:
    return (one.ids, one.ended) == (other.ids, other.ended)


def _gap(chat: Any, prompt: Prompt, edits: Sequence[Edit], ours: Continuation, theirs: Continuation) -> float:
    """How far both are apart, in nats: in the log-probability of each token that both said and, where they first
    differ, in how much likelier this machine finds its own token than theirs."""
    pairs = enumerate(zip(ours.ids, theirs.ids, strict=False))
    place = next((n for n, (a, b) in pairs if a != b), min(len(ours.ids), len(theirs.ids)))
    said = zip(ours.log_probs[:place], theirs.log_probs[:place], strict=True)
    before = max((abs(own - other) for own, other in said), default=0.0)
    if _equal(ours, theirs):
        return before

    def log_prob(said: Continuation) -> float:
        if place >= len(said.ids) and said.ended != "stop":
            return -math.inf
        tokens = said.ids[place : place + 1] or chat.stop_ids
        answers = [(*ours.ids[:place], token) for token in tokens]
        found = token_log_probs(chat.model, [prompt] * len(answers), answers, edits)
        return max(row[-1] for row in found)

    here, there = log_prob(ours), log_prob(theirs)
    return max(before, here - there) if math.isfinite(here) else math.inf
