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
from caa_bench.models.rope import forget_lengths, rope_apart


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
    groups = letter_groups(model, prompts, batch_size=batch_size)
    for group, hidden in letter_batches(model, prompts, groups, share_prefix=share_prefix):
        for row, values in zip(group, hidden, strict=True):
            own = len(prompts[row].candidates)
            found[row, :own] = values[:own]
    return found


def letter_groups(model: nn.Module, prompts: Sequence[ChoicePrompt], *, batch_size: int) -> list[list[int]]:
    """Which prompts `letter_batches` runs together: a pure function of their lengths and the model's precision."""
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    # The last token is where batches are split off, whatever is steered later
    texts = [Prompt(ids=prompt.ids, first_position=len(prompt.ids) - 1) for prompt in prompts]
    return list(rope_apart(model, texts, batched(texts, batch_size, exact=half)))


def letter_batches(
    model: nn.Module,
    prompts: Sequence[ChoicePrompt],
    groups: Sequence[Sequence[int]],
    *,
    share_prefix: bool = True,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """`letter_activations` a batch at a time, so that no more than one has to be held.

    Args:
        groups: the prompts of each batch, by number (`letter_groups`).

    Yields:
        The group and its activations, [B, K, L, D] fp32 on the CPU, K the most candidates in the group; where a prompt
        has fewer, those behind its own are without meaning.
    """
    with frozen(model):
        shared = share_prefix and bool(groups) and can_share(model, prompts)
    for group in groups:
        forget_lengths(model)  # a long prompt before must not change how this one's positions turn
        candidates = [prompts[row].candidates for row in group]
        width = max(map(len, candidates))
        # Where a prompt has fewer candidates, its first one fills the row and is thrown away
        letters = [[*own, *own[:1] * (width - len(own))] for own in candidates]
        chosen = [prompts[row] for row in group]
        with frozen(model), batch_of(chosen):
            hidden = (_shared if shared else _full)(model, chosen, letters)
        yield group, hidden


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
        with kept_outputs(model, last=True) as kept:
            decoder(model)(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=False
            )
        each.append(torch.stack(kept, dim=1)[:, :, 0])
    return torch.stack(each, dim=1)


@contextmanager
def kept_outputs(model: nn.Module, *, layer: int | None = None, last: bool = False) -> Iterator[list[Tensor]]:
    """Every block's output in the forward inside, in order, or one block's alone. Each [B, T, D] fp32, CPU

    Args:
        last: keep the last position alone, T = 1: all positions of all blocks are a hundred times as much.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: object) -> None:
        hidden = hidden_of(output)
        kept.append((hidden[:, -1:] if last else hidden).float().cpu())

    with ExitStack() as hooks:
        for block in blocks(model) if layer is None else [blocks(model)[layer]]:
            hooks.callback(block.register_forward_hook(keep).remove)
        yield kept
