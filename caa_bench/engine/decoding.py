"""Rows that decode together after a shared prefix: their cache, their edits, their next tokens. Knows no sampling.

Shapes: B prompts, R rows still speaking, P prefix tokens, S tokens of a forward, H heads, E head size, D hidden size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from caa_bench.engine.edit import Edit
from caa_bench.engine.head import float32_head
from caa_bench.engine.prefix import Split
from caa_bench.engine.row_edits import RowEdits


class PreallocatedLayer(DynamicLayer):
    """Keys and values with room for the whole continuation: a plain layer copies everything at every new token.

    Args:
        keys, values: of the prefix, `None` where there is none. [B, H, P, E]
        repeats: rows that each prompt becomes.
        room: tokens to come.
    """

    def __init__(self, keys: Tensor | None, values: Tensor | None, *, repeats: int, room: int) -> None:
        super().__init__()
        self.length, self.room = 0, room
        if keys is not None and values is not None:
            self._open(keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0))

    def _open(self, keys: Tensor, values: Tensor) -> None:
        self.dtype, self.device, self.length = keys.dtype, keys.device, keys.shape[2]
        self.keys, self.values = (
            torch.cat([part, part.new_zeros(*part.shape[:2], self.room, part.shape[3])], dim=2)
            for part in (keys, values)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write behind what is there; views of all of it. [R, H, P + new, E] each"""
        if self.keys is None or self.values is None:
            self._open(key_states, value_states)
            return key_states, value_states
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """How many tokens the cache holds so far."""
        return self.length


class DecodingRows:
    """The rows of one batch: prompts in order, each as many times as it has conditions.

    Args:
        prefix: the prompts, their prefix computed.
        edits: of each row, all of which keep the prefix. R in number
        repeats: rows a prompt.
        room: most new tokens.
    """

    def __init__(self, prefix: Split, edits: Sequence[Sequence[Edit]], *, repeats: int, room: int) -> None:
        padded = prefix.padded
        self.cache = DynamicCache()
        self.cache.layers = [
            PreallocatedLayer(layer.keys, layer.values, repeats=repeats, room=prefix.suffix + room)
            for layer in prefix.cache.layers
        ]
        self.ids = padded.ids[:, prefix.prefix :].repeat_interleave(repeats, 0)  # [R, S]
        self.positions = padded.positions[:, prefix.prefix :].repeat_interleave(repeats, 0)  # [R, S]
        ahead = padded.mask.new_ones(len(padded.mask), room)
        self.mask = torch.cat([padded.mask, ahead], dim=1).repeat_interleave(repeats, 0)  # [R, P + S + room]
        self.edits = RowEdits(edits)
        self.said = 0  # tokens behind the prompt so far

    def forward(self, model: nn.Module) -> Tensor:
        """Run the tokens that are due; logits of each row's next one. [R, V] fp32"""
        width = self.cache.get_seq_length() + self.ids.shape[1]
        with self.edits.applied(model, start=self.said), float32_head(model):
            output = model(
                input_ids=self.ids,
                attention_mask=self.mask[:, :width],
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def go_on(self, keep: Sequence[int], tokens: Sequence[int]) -> None:
        """Drop the rows that have ended, and put each other row's new token up for the next forward.

        Args:
            keep: places of the rows that go on, in order.
            tokens: one for each of them.
        """
        index = torch.tensor(keep, device=self.ids.device)
        if len(keep) < len(self.ids):
            self.mask = self.mask[index]
            self.cache.batch_select_indices(index)
            self.edits.keep(keep)
        self.ids = torch.tensor(tokens, device=self.ids.device)[:, None]
        self.positions = self.positions[index, -1:] + 1
        self.said += 1
