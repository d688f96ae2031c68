"""Log-probabilities of given answers, teacher-forced: what decoding would have given each token. Knows no sampling.

Shapes: N prompts, B rows of one batch, T tokens after padding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched, pad
from caa_bench.engine.edit import Edit
from caa_bench.engine.forwards import padded_logits
from caa_bench.engine.sites import check_edits
from caa_bench.models.blocks import frozen, input_device, text_config
from caa_bench.models.prompts import Prompt
from caa_bench.models.rope import rope_apart

# Bounds the logits of one forward, [B, T, V] in fp32 and once more as log-probabilities: half a GB.
_MOST_LOGITS = 2**26


@dataclass(frozen=True, kw_only=True)
class Forced:
    """What the model makes of one given answer.

    Args:
        log_probs: of each token after all before it, in nats.
        greedy: whether each token is the likeliest one, so that greedy decoding would say just this.
    """

    log_probs: tuple[float, ...] = ()
    greedy: bool = True


def token_log_probs(
    model: nn.Module,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    edits: Sequence[Edit] = (),
    *,
    batch_size: int = 16,
) -> list[list[float]]:
    """log p of each token of each answer after its prompt, in nats: `forced` without the rest."""
    return [list(one.log_probs) for one in forced(model, prompts, answers, edits, batch_size=batch_size)]


def forced(
    model: nn.Module,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    edits: Sequence[Edit] = (),
    *,
    batch_size: int = 16,
) -> list[Forced]:
    """Each answer after its prompt, under one condition; edits go on into the answer.

    Args:
        prompts: one for each answer. [N]
        answers: token ids; an empty one has no log-probabilities. [N]
        batch_size: most rows of one forward; fewer where the answers are long.

    Raises:
        ValueError: an edit names a place that is not there, or prompts and answers are not as many.
    """
    check_edits(model, edits)
    found = [Forced() for _ in answers]
    spoken = [n for n, (_, answer) in enumerate(zip(prompts, answers, strict=True)) if answer]
    # Without each answer's last token, which nothing follows: a whole text may be one longer than the context.
    whole = [Prompt(ids=(*prompts[n].ids, *answers[n][:-1]), first_position=prompts[n].first_position) for n in spoken]
    # Grouped by length alone: here nothing is split at the first position, so any two rows may stand together.
    flat = [Prompt(ids=one.ids, first_position=len(one.ids) - 1) for one in whole]
    longest = max((len(answer) for answer in answers), default=0)
    most = max(1, min(batch_size, _MOST_LOGITS // ((longest + 1) * int(text_config(model).vocab_size))))
    with frozen(model):
        for group in rope_apart(model, flat, batched(flat, most)):
            rows, said = [whole[place] for place in group], [answers[spoken[place]] for place in group]
            log_probs, likeliest = _answer_log_probs(model, rows, said, edits)
            for place, answer, own, lead in zip(group, said, log_probs.tolist(), likeliest.tolist(), strict=True):
                last = -len(answer)
                found[spoken[place]] = Forced(log_probs=tuple(own[last:]), greedy=all(lead[last:]))
    return found


def _answer_log_probs(
    model: nn.Module, rows: Sequence[Prompt], said: Sequence[Sequence[int]], edits: Sequence[Edit]
) -> tuple[Tensor, Tensor]:
    """log p of each row's answer in its last places (fp32), and whether each token is the likeliest. [B, longest]"""
    keep = max(map(len, said))
    padded = pad([row.ids for row in rows], input_device(model))
    logits = padded_logits(model, padded, rows, edits, keep=keep)  # [B, keep, V]
    tokens = torch.tensor([[0] * (keep - len(own)) + list(own) for own in said], device=logits.device)
    return torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0], logits.argmax(-1) == tokens
