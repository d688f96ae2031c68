"""The two ways from prompts and edits to logits: in full, and as rows on a shared prefix. Held equal by tests.

Shapes: B prompts of one batch, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from caa_bench.engine.batches import Padded, pad
from caa_bench.engine.edit import Edit
from caa_bench.engine.head import float32_head
from caa_bench.engine.pack import Rows, packed
from caa_bench.engine.positions import batch_of
from caa_bench.engine.prefix import Split
from caa_bench.engine.steer import hooked
from caa_bench.models.blocks import input_device
from caa_bench.models.prompts import Prompt


def full_logits(model: nn.Module, prompts: Sequence[Prompt], edits: Sequence[Edit]) -> Tensor:
    """One full forward of a left-padded batch under one condition: logits after each prompt. [B, V] fp32"""
    padded = pad([prompt.ids for prompt in prompts], input_device(model))
    return padded_logits(model, padded, prompts, edits, keep=1)[:, 0]


def padded_logits(
    model: nn.Module, padded: Padded, prompts: Sequence[Prompt], edits: Sequence[Edit], *, keep: int
) -> Tensor:
    """One full forward of the batch that `prompts` were padded to: logits at its last places. [B, keep, V] fp32"""
    with batch_of(prompts), hooked(model, edits), float32_head(model):
        output = model(
            input_ids=padded.ids,
            attention_mask=padded.mask,
            position_ids=padded.positions,
            use_cache=False,
            logits_to_keep=keep,
        )
    logits: Tensor = output.logits[:, -keep:].float()
    return logits


def shared_logits(model: nn.Module, split: Split, rows: Rows) -> Tensor:
    """One suffix pass on a computed prefix under all conditions: logits after each prompt. [B, R, V] fp32"""
    with packed(model, rows, prefix=split.prefix, suffix=split.suffix), float32_head(model):
        output = model(
            input_ids=split.padded.ids[:, split.prefix :],
            attention_mask=split.padded.mask,
            position_ids=split.padded.positions[:, split.prefix :],
            past_key_values=split.cache,
            use_cache=True,
        )
    logits: Tensor = output.logits.float()
    return logits.reshape(len(split.padded.ids), rows.count, -1)
