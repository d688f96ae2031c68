"""Which token of the forward under way is which: what every position-bound hook asks at the moment it is called.

The engine says which prompts the rows of each forward are (`batch_of`), also when it groups them by length, drops those
that have finished, or lays conditions side by side. Around plain transformers calls, with nobody to say it, a row's
prompt ends where its first forward ends.
Positions are ABSOLUTE: the same token whatever the padding, the cache or the chunking.
Shapes: B rows of a forward, T tokens of it, R conditions side by side, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from caa_bench.models.blocks import decoder
from caa_bench.models.prompts import Prompt

_batch: ContextVar[tuple[Prompt, ...] | None] = ContextVar("batch", default=None)


@contextmanager
def batch_of(prompts: Sequence[Prompt]) -> Iterator[None]:
    """Inside, the rows of every forward are these prompts, in order; the innermost block counts.

    Args:
        prompts: of each row. A batch of n times as many rows (beams, several returned sequences) takes each prompt n
            times in a row.

    Raises:
        ValueError: there are no prompts.
    """
    if not prompts:
        raise ValueError("no prompts given: a batch has one prompt for each of its rows")
    token = _batch.set(tuple(prompts))
    try:
        yield
    finally:
        _batch.reset(token)


def current_batch() -> tuple[Prompt, ...] | None:
    """The prompts of the forward under way, a row each; None outside of the engine."""
    return _batch.get()


@contextmanager
def tracked(model: nn.Module) -> Iterator[Positions]:
    """Inside, the positions of every forward of `model`, for hooks of its blocks to read; leaves no hook behind."""
    module = decoder(model)
    positions = Positions(module)
    with ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(positions.entering, with_kwargs=True).remove)
        hooks.callback(module.register_forward_hook(positions.leaving).remove)
        yield positions


@dataclass(frozen=True, kw_only=True, eq=False)
class _Begin:
    """Where the rows of a cache began: each one's first position [B], the prompt's mask [B, W], and its width W."""

    firsts: Tensor
    mask: Tensor | None
    width: int


class Positions:
    """Pre-hook and hook of the decoder; `of` is for hooks further in.

    Attributes:
        firsts: absolute index of each row's last instruction token, the first position that CAA changes. [B]
        absolute: index of each token in its unpadded row. [B or 1, T]
        real: False at padding; None where there is none. [B, T]
    """

    firsts: Tensor
    absolute: Tensor
    real: Tensor | None

    def __init__(self, module: nn.Module) -> None:
        self._signature = inspect.signature(module.forward)
        self._begun: WeakKeyDictionary[Any, _Begin] = WeakKeyDictionary()
        self._fresh: _Begin | None = None  # began with this forward, its cache still to be seen
        self._chosen: dict[str, Tensor | None] = {}  # of this forward, by rule

    def entering(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read off what is about to run.

        Raises:
            ValueError: the rows do not fit the prompts, or nobody can know where the prompts end.
        """
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        rows, width = tokens.shape[:2]
        batch, mask = current_batch(), given.get("attention_mask")
        flat = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        if batch is None and flat is None and mask is not None:
            raise ValueError("attach: padding can be read from a mask of [rows, tokens] alone; give such a one")
        self.real = None if flat is None else flat[:, -width:].bool()
        self.absolute = _absolute(given, flat, width, tokens.device)
        self._chosen, self._fresh = {}, None
        if batch is None:
            self.firsts = self._found(given.get("past_key_values"), flat, rows=rows, width=width)
            return
        if rows % len(batch):
            raise ValueError(f"a batch of {rows} rows does not fit the {len(batch)} prompts to steer")
        firsts = torch.tensor([prompt.first_position for prompt in batch], device=tokens.device)
        self.firsts = firsts.repeat_interleave(rows // len(batch))

    def leaving(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Remember the cache that the forward made."""
        cache = getattr(output, "past_key_values", None)
        if self._fresh is not None and cache is not None:
            self._begun[cache] = self._fresh

    def of(self, positions: str, hidden: Tensor) -> Tensor | None:
        """Where an edit with these `positions` holds in a block's hidden state; None: everywhere.

        Args:
            positions: as in `Edit`.
            hidden: [B, T, ...], or [B, R * T, ...] where the engine has R conditions side by side.

        Returns:
            [B, T or R * T, 1] bool
        """
        if positions not in self._chosen:
            self._chosen[positions] = self._read(positions)
        chosen = self._chosen[positions]
        if chosen is None:
            return None
        times = hidden.shape[1] // self.absolute.shape[1]
        return (chosen if times == 1 else chosen.repeat(1, times, 1)).to(hidden.device)

    def _read(self, positions: str) -> Tensor | None:
        where, firsts = self.absolute, self.firsts[:, None]
        if positions == "all":
            return None if self.real is None else self.real[..., None]
        if positions == "instruction_end":
            chosen = where >= firsts
        elif positions == "answer":
            chosen = where > firsts
        elif positions == "prompt":
            chosen = where <= firsts
        else:
            chosen = (where < int(positions.removeprefix("first:"))).expand(len(firsts), -1)
        return (chosen if self.real is None else chosen & self.real)[..., None]

    def _found(self, cache: Any, mask: Tensor | None, *, rows: int, width: int) -> Tensor:
        """First positions outside of the engine: the last real token of the forward that the rows began with. [B]"""
        seen = 0 if cache is None else int(cache.get_seq_length())
        if not seen:
            self._fresh = _Begin(firsts=self._last(rows), mask=mask, width=width)
            if cache is not None:
                self._begun[cache] = self._fresh
            return self._fresh.firsts
        begin = self._begun.get(cache)
        if begin is None or seen < begin.width:
            raise ValueError(
                f"attach: the cache holds {seen} tokens, and where their prompts end is not known; run the prompts "
                "inside the `with` block from an empty cache, or name them with batch_of(prompts)"
            )
        moved = begin.mask is not None and mask is not None and not torch.equal(mask[:, : begin.width], begin.mask)
        if len(begin.firsts) != rows or moved:
            raise ValueError(
                f"attach: the {rows} rows are not the {len(begin.firsts)} that the cache began with, in their order; "
                "name the prompts with batch_of(prompts)"
            )
        return begin.firsts

    def _last(self, rows: int) -> Tensor:
        """Absolute position of each row's last real token. [B]"""
        absolute = self.absolute.expand(rows, -1)
        if self.real is None:
            return absolute[:, -1].clone()
        places = torch.arange(absolute.shape[1], device=absolute.device)
        last = torch.where(self.real.to(places.device), places, -1).amax(-1, keepdim=True)
        if bool((last < 0).any()):
            raise ValueError("attach: a row of the batch is nothing but padding; leave it out")
        return absolute.gather(1, last)[:, 0]


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
