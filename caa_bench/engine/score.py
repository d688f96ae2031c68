"""Answer-letter logits of many prompts under many conditions.

Shapes: N prompts, C conditions, K options, B prompts of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched, pad
from caa_bench.engine.blocks import blocks, frozen, input_device
from caa_bench.engine.edit import Edit
from caa_bench.engine.steer import check_layers, steered
from caa_bench.prompts import ChoicePrompt


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
    """Logits of every prompt's candidates after it, under every condition."""
    for edits in conditions:
        check_layers(edits, len(blocks(model)))
    options = max((len(prompt.candidates) for prompt in prompts), default=0)
    logits = torch.full((len(prompts), len(conditions), options), math.nan)
    log_z = torch.full((len(prompts), len(conditions)), math.nan)
    with frozen(model):
        for group in batched(prompts, batch_size):
            chosen = [prompts[row] for row in group]
            for column, edits in enumerate(conditions):
                last = last_logits(model, chosen, edits)
                for index, row in enumerate(group):
                    candidates = torch.tensor(prompts[row].candidates, device=last.device)
                    logits[row, column, : len(candidates)] = last[index, candidates].cpu()
                log_z[torch.tensor(group), column] = last.logsumexp(-1).cpu()
    return Scores(logits=logits, log_z=log_z)


def last_logits(model: nn.Module, prompts: Sequence[ChoicePrompt], edits: Sequence[Edit]) -> Tensor:
    """One full forward of a left-padded batch under one condition: logits after each prompt. [B, V] fp32"""
    padded = pad([prompt.ids for prompt in prompts], input_device(model))
    with steered(model, edits, prompts):
        output = model(
            input_ids=padded.ids,
            attention_mask=padded.mask,
            position_ids=padded.positions,
            use_cache=False,
            logits_to_keep=1,
        )
    return output.logits[:, -1].float()
