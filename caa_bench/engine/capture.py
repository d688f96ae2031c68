"""Activations at the answer letter, at every block, for contrast pairs that differ in nothing but the letter.

Shapes: N prompts, K candidates, L layers, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched, pad
from caa_bench.engine.blocks import blocks, decoder, frozen, hidden_size, input_device
from caa_bench.engine.steer import hidden_of
from caa_bench.prompts import ChoicePrompt


def letter_activations(
    model: nn.Module, prompts: Sequence[ChoicePrompt], *, batch_size: int = 16, share_prefix: bool = True
) -> Tensor:
    """Output of every block at the letter, for each prompt followed by each of its candidates (CAA, paper section 3).

    Returns:
        [N, K, L, D] fp32 on the CPU; NaN where a prompt has fewer than K candidates.
    """
    layers = blocks(model)
    options = max((len(prompt.candidates) for prompt in prompts), default=0)
    found = torch.full((len(prompts), options, len(layers), hidden_size(model)), math.nan)
    with frozen(model):
        for group in batched(prompts, batch_size):
            for option in range(options):
                rows = [row for row in group if option < len(prompts[row].candidates)]
                if rows:
                    texts = [(*prompts[row].ids, prompts[row].candidates[option]) for row in rows]
                    found[torch.tensor(rows), option] = _last_hidden(model, texts)
    return found


def _last_hidden(model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
    """Every block's output at the last token of each text. [B, L, D] fp32, CPU"""
    padded = pad(texts, input_device(model))
    kept: list[Tensor] = []
    with ExitStack() as hooks:
        for block in blocks(model):
            handle = block.register_forward_hook(lambda _, __, out: kept.append(hidden_of(out)[:, -1].float().cpu()))
            hooks.callback(handle.remove)
        decoder(model)(input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=False)
    return torch.stack(kept, dim=1)
