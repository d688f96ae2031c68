"""Edits as forward hooks: what the engine's fast path is held equal to, and what `Intervention.attach` uses.

Positions are ABSOLUTE: the same token is steered whatever the padding, the cache or the chunking of a forward.
Shapes: B rows of a forward, T tokens of it, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from caa_bench.engine.edit import Edit
from caa_bench.models.blocks import blocks, decoder
from caa_bench.models.prompts import Prompt


@contextmanager
def steered(model: nn.Module, edits: Sequence[Edit], prompts: Sequence[Prompt]) -> Iterator[None]:
    """Inside, every forward of `model` is steered: plain, cached or `model.generate`, padded on either side.

    Args:
        model: a causal language model of transformers, also inside peft.
        edits: what to add; every row gets all of them.
        prompts: one per row of the batches that follow, in order; only `first_position` is read. A batch of n times
            as many rows (beams, several returned sequences) takes each prompt n times in a row.

    Raises:
        ValueError: an edit names a block that is not there, or there are edits and no prompts; inside, a batch that
            does not fit the prompts.
    """
    layers = blocks(model)
    check_layers(edits, len(layers))
    if edits and not prompts:
        raise ValueError("no prompts given: edits need one per row of the batches that follow, in order")
    with ExitStack() as hooks:
        if edits:
            module = decoder(model)
            tracker = _Positions(module, prompts)
            hooks.callback(module.register_forward_pre_hook(tracker, with_kwargs=True).remove)
        for layer in sorted({edit.layer for edit in edits}):
            hook = _Add([edit for edit in edits if edit.layer == layer], tracker)
            # prepend: `output_hidden_states` collects with hooks too, and those must see the change
            hooks.callback(layers[layer].register_forward_hook(hook, prepend=True).remove)
        yield


def check_layers(edits: Sequence[Edit], count: int) -> None:
    """Raise ValueError for an edit of a block that is not there: it would steer nothing, silently."""
    for edit in edits:
        if not 0 <= edit.layer < count:
            raise ValueError(f"layer ({edit.layer}) must be in 0..{count - 1}")


def hidden_of(output: Any) -> Tensor:
    """A block's hidden state: some families return it alone, some first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """The block's output with another hidden state, in the shape that the family returns."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class _Positions:
    """Pre-hook of the decoder: which tokens of the forward under way are steered."""

    def __init__(self, module: nn.Module, prompts: Sequence[Prompt]) -> None:
        self.firsts = [prompt.first_position for prompt in prompts]
        self.signature = inspect.signature(module.forward)
        self.after: Tensor | None = None  # [B, T] bool, at or after each row's first position; None is everywhere
        self.real: Tensor | None = None  # [B, T] bool, not padding; None where the forward has no mask

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self.signature.bind_partial(*args, **kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        rows, width = tokens.shape[:2]
        if rows % len(self.firsts):
            raise ValueError(f"a batch of {rows} rows does not fit the {len(self.firsts)} prompts to steer")
        mask = given.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self.real = None if mask is None else mask[:, -width:].bool()
        firsts = torch.tensor(self.firsts, device=tokens.device).repeat_interleave(rows // len(self.firsts))
        self.after = _absolute(given, mask, width, tokens.device) >= firsts[:, None]


def _absolute(given: dict[str, Any], mask: Tensor | None, width: int, device: torch.device) -> Tensor:
    """Absolute position of each token of a forward. [B or 1, T]"""
    positions = given.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim == 2:
        return positions.to(device)
    if mask is not None:
        return (mask.to(device).cumsum(-1) - 1)[:, -width:]
    cache = given.get("past_key_values")
    seen = 0 if cache is None else int(cache.get_seq_length())
    return torch.arange(seen, seen + width, device=device)[None]


class _Add:
    """Hook of one block: add the deltas to its output."""

    def __init__(self, edits: Sequence[Edit], tracker: _Positions) -> None:
        self.tracker = tracker
        self.deltas = {
            first: torch.stack([edit.delta.float() for edit in edits if edit.first_position == first]).sum(0)
            for first in {edit.first_position for edit in edits}
        }

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = hidden_of(output)
        for first, delta in self.deltas.items():
            if delta.dtype != hidden.dtype or delta.device != hidden.device:
                delta = self.deltas[first] = delta.to(hidden)
            parts = [self.tracker.real, self.tracker.after if first == "instruction_end" else None]
            chosen = [part.to(hidden.device) for part in parts if part is not None]
            if chosen:
                where = torch.stack(torch.broadcast_tensors(*chosen)).all(0)[..., None]  # [B, T, 1]
                hidden = hidden + where.to(hidden.dtype) * delta
            else:
                hidden = hidden + delta
        return with_hidden(output, hidden)
