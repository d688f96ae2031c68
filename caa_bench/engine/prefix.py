"""The shared prefix: prompts split before their first steered token, and a cache of the first part that never changes.

Shapes: B prompts, P prefix tokens after padding, S suffix tokens (equal within a batch), H heads, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from caa_bench.engine.batches import Padded, pad
from caa_bench.models.blocks import decoder, input_device, num_layers
from caa_bench.models.prompts import Prompt


class PrefixDone(Exception):
    """The last block has its keys and values: nothing else of it is wanted, and no hidden state behind it."""


class FrozenLayer(DynamicLayer):
    """One layer's keys and values that are read with the new ones behind, and after `freeze` keep nothing of them.

    So one prefix serves any number of suffix passes without a copy: 6 MiB instead of 387 MiB for 384 tokens x 64 rows.
    A plain layer also where the model has a sliding window: the mask still enforces it, and nothing is forgotten.

    Args:
        last: end the forward as soon as this layer has been filled, by PrefixDone.
    """

    frozen = False

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.last = last

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and of this pass. [B, H, P + new, E] each"""
        if not self.frozen:
            filled = super().update(key_states, value_states, *args, **kwargs)
            if self.last:
                raise PrefixDone
            return filled
        if self.keys is None or self.values is None:
            return key_states, value_states
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A batch of prompts whose prefix has been computed.

    Args:
        cache: keys and values of the prefix, frozen. Every suffix pass may use it.
        padded: the whole prompts, left-padded. [B, P + S]
        prefix: P.
        suffix: S.
    """

    cache: DynamicCache
    padded: Padded
    prefix: int
    suffix: int


def split(model: nn.Module, prompts: Sequence[Prompt], *, suffix: int) -> Split:
    """Run everything but the last `suffix` tokens of each prompt through the decoder, once."""
    padded = pad([prompt.ids for prompt in prompts], input_device(model))
    width = padded.ids.shape[1] - suffix
    count = num_layers(model)
    # Most of the last block (a twelfth of a prefix of 12) is spared, but not where accelerate must put weights back
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    layers = [FrozenLayer(last=layer == count - 1 and not hooked) for layer in range(count)]
    cache = DynamicCache()
    cache.layers = list(layers)
    if width:
        with suppress(PrefixDone):
            decoder(model)(
                input_ids=padded.ids[:, :width],
                attention_mask=padded.mask[:, :width],
                position_ids=padded.positions[:, :width],
                past_key_values=cache,
                use_cache=True,
            )
    for layer in layers:
        layer.frozen = True
    return Split(cache=cache, padded=padded, prefix=width, suffix=suffix)
