"""Answer-letter logits of many prompts under many conditions: one prefill, then every condition a row of its suffix.

Shapes: N prompts, C conditions, K options, B prompts of a batch, S steered tokens, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched
from caa_bench.engine.edit import Edit
from caa_bench.engine.forwards import full_logits, shared_logits
from caa_bench.engine.pace import Scored, settle, tell
from caa_bench.engine.pack import Rows
from caa_bench.engine.positions import batch_of
from caa_bench.engine.prefix import Split, split
from caa_bench.engine.sharing import can_share, shareable
from caa_bench.engine.sites import check_edits
from caa_bench.models.blocks import frozen, num_layers, text_config
from caa_bench.models.prompts import ChoicePrompt
from caa_bench.models.rope import rope_apart

# Bounds of one suffix pass: logits [B, R, V], hidden states [B, R*S, D], and R*S because attention is quadratic in it.
_MOST_LOGITS = 2**26
_MOST_TOKENS = 2**14
_MOST_WIDTH = 2**9


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What the model says at the position of the answer letter.

    Args:
        logits: raw logit of each option's letter, NaN where an item has fewer options. [N, C, K] fp32, CPU
        log_z: log of the sum of exp(logit) over the whole vocabulary, so `logits - log_z` are log-probabilities.
            [N, C] fp32, CPU
    """

    logits: Tensor
    log_z: Tensor


def score(
    model: nn.Module,
    prompts: Sequence[ChoicePrompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    batch_size: int = 16,
    share_prefix: bool = True,
) -> Scores:
    """Logits of every prompt's candidates after it, under every condition.

    Args:
        conditions: edits of each; an empty list is the model as it is. One that changes
            nothing, like a zero delta, is the same as none.
        batch_size: most prompts in one batch (see `batches.batched`).
        share_prefix: False recomputes the whole prompt for every condition, as a check.

    Raises:
        ValueError: an edit names a place that is not there, or a prompt's first position is outside of it.
    """
    for edits in conditions:
        check_edits(model, edits)
    wanted = [[edit for edit in edits if not edit.change.is_identity] for edits in conditions]
    options = max((len(prompt.candidates) for prompt in prompts), default=0)
    logits = torch.full((len(prompts), len(conditions), options), math.nan)
    log_z = torch.full((len(prompts), len(conditions)), math.nan)
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    with frozen(model):
        sharing = share_prefix and any(shareable(edits) for edits in wanted) and can_share(model, prompts)
        for group in rope_apart(model, prompts, batched(prompts, batch_size, exact=half)):
            chosen = [prompts[row] for row in group]
            with batch_of(chosen):
                begun = time.monotonic()
                prefix = _shared_prefix(model, chosen) if sharing else None
                read = time.monotonic()
                for columns, last in _last_logits(model, chosen, wanted, prefix=prefix):
                    where = (torch.tensor(group)[:, None], torch.tensor(columns)[None])
                    logits[where] = _of_candidates(last, chosen, options)
                    log_z[where] = last.logsumexp(-1).cpu()
            spent = {"read_s": read - begun, "conditions_s": time.monotonic() - read}
            tell(Scored(share=len(group) / len(prompts), conditions=len(conditions), **spent))
    return Scores(logits=logits, log_z=log_z)


def _shared_prefix(model: nn.Module, prompts: Sequence[ChoicePrompt]) -> Split:
    """What all conditions of a batch share, computed to its end."""
    prefix = split(model, prompts, suffix=len(prompts[0].ids) - prompts[0].first_position)
    settle(model)
    return prefix


def _last_logits(
    model: nn.Module,
    prompts: Sequence[ChoicePrompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    prefix: Split | None,
) -> Iterator[tuple[list[int], Tensor]]:
    """One batch: columns of `conditions`, and their logits after each prompt. [B, columns, V]"""
    layers = num_layers(model)
    shared = [column for column, edits in enumerate(conditions) if prefix is not None and shareable(edits)]
    if prefix is not None:
        shared.sort(key=lambda column: min((edit.follows for edit in conditions[column]), default=layers))
        size = _rows_at_once(len(prompts), prefix.suffix, text_config(model).vocab_size)
        for start in range(0, len(shared), size):
            columns = shared[start : start + size]
            rows = Rows([conditions[column] for column in columns], layers)
            yield columns, shared_logits(model, prefix, rows)[:, rows.row_of]
    for column in sorted(set(range(len(conditions))) - set(shared)):
        yield [column], full_logits(model, prompts, conditions[column])[:, None]


def _rows_at_once(batch: int, suffix: int, vocabulary: int) -> int:
    """How many conditions fit one suffix pass."""
    return max(
        1, min(_MOST_LOGITS // (batch * vocabulary), _MOST_TOKENS // (batch * suffix), _MOST_WIDTH // suffix) - 1
    )


def _of_candidates(last: Tensor, prompts: Sequence[ChoicePrompt], options: int) -> Tensor:
    """Logits of each prompt's own candidates, NaN behind them. [B, columns, K], CPU"""
    padded = [[*prompt.candidates, *[-1] * (options - len(prompt.candidates))] for prompt in prompts]
    index = torch.tensor(padded, device=last.device)[:, None, :].expand(-1, last.shape[1], -1)
    return last.gather(-1, index.clamp(min=0)).masked_fill(index < 0, math.nan).cpu()
