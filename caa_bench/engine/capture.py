"""Activations at the answer letter, at every block, for contrast pairs that differ in nothing but the letter.

Shapes: N prompts, K candidates, L layers, D hidden size, B prompts of a batch, T tokens of a prompt after padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from caa_bench.engine.batches import batched, pad
from caa_bench.engine.pack import Rows, packed
from caa_bench.engine.positions import batch_of
from caa_bench.engine.prefix import split
from caa_bench.engine.sharing import can_share
from caa_bench.engine.steer import hidden_of
from caa_bench.models.blocks import blocks, decoder, frozen, hidden_size, input_device, num_layers
from caa_bench.models.prompts import ChoicePrompt, Prompt


def letter_activations(
    model: nn.Module, prompts: Sequence[ChoicePrompt], *, batch_size: int = 16, share_prefix: bool = True
) -> Tensor:
    """Output of every block at the letter, for each prompt followed by each of its candidates (CAA, paper section 3).

    A prompt is run once; its candidates are rows of one token behind it.

    Returns:
        [N, K, L, D] fp32 on the CPU; NaN where a prompt has fewer than K candidates.
    """
    options = max((len(prompt.candidates) for prompt in prompts), default=0)
    found = torch.full((len(prompts), options, num_layers(model), hidden_size(model)), math.nan)
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    # The last token is where batches are split off, whatever is steered later
    texts = [Prompt(ids=prompt.ids, first_position=len(prompt.ids) - 1) for prompt in prompts]
    with frozen(model):
        capture = _shared if share_prefix and can_share(model, prompts) else _full
        for group in batched(texts, batch_size, exact=half):
            candidates = [prompts[row].candidates for row in group]
            width = max(map(len, candidates))
            # Where a prompt has fewer candidates, its first one fills the row and is thrown away
            letters = [[*own, *own[:1] * (width - len(own))] for own in candidates]
            chosen = [prompts[row] for row in group]
            with batch_of(chosen):
                hidden = capture(model, chosen, letters)
            for row, own, values in zip(group, candidates, hidden, strict=True):
                found[row, : len(own)] = values[: len(own)]
    return found


def _shared(model: nn.Module, prompts: Sequence[ChoicePrompt], letters: Sequence[Sequence[int]]) -> Tensor:
    """One pass over the prompts, one over the letters side by side. [B, K, L, D]"""
    ends = [
        Prompt(ids=(*prompt.ids, row[0]), first_position=len(prompt.ids))
        for prompt, row in zip(prompts, letters, strict=True)
    ]
    prefix = split(model, ends, suffix=1)
    ids = torch.tensor(letters, device=prefix.padded.ids.device)
    rows, padded = ids.shape[1], prefix.padded
    with (
        packed(model, Rows([], num_layers(model)), prefix=prefix.prefix, suffix=1, start=rows),
        kept_outputs(model) as kept,
    ):
        decoder(model)(
            input_ids=ids,
            attention_mask=torch.cat([padded.mask, padded.mask[:, -1:].expand(-1, rows - 1)], dim=1),
            position_ids=padded.positions[:, -1:].expand(-1, rows).contiguous(),
            past_key_values=prefix.cache,
            use_cache=True,
        )
    return torch.stack(kept, dim=2)


def _full(model: nn.Module, prompts: Sequence[ChoicePrompt], letters: Sequence[Sequence[int]]) -> Tensor:
    """One full pass for each letter. [B, K, L, D]"""
    each = []
    for option in range(len(letters[0])):
        padded = pad(
            [(*prompt.ids, row[option]) for prompt, row in zip(prompts, letters, strict=True)], input_device(model)
        )
        with kept_outputs(model) as kept:
            decoder(model)(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=False
            )
        each.append(torch.stack([hidden[:, -1] for hidden in kept], dim=1))
    return torch.stack(each, dim=1)


@contextmanager
def kept_outputs(model: nn.Module, *, layer: int | None = None) -> Iterator[list[Tensor]]:
    """Every block's output in the forward inside, in order, or one block's alone. Each [B, T, D] fp32, CPU"""
    kept: list[Tensor] = []
    with ExitStack() as hooks:
        for block in blocks(model) if layer is None else [blocks(model)[layer]]:
            handle = block.register_forward_hook(lambda _, __, output: kept.append(hidden_of(output).float().cpu()))
            hooks.callback(handle.remove)
        yield kept
