"""Many conditions as rows of one suffix pass: rows join where their edit first changes something.

The model runs its own forward over the suffix of the unsteered row; hooks on the blocks widen it on the way. Below the
first edit of a condition its row IS the unsteered row, so it is not computed. Rows lie side by side along the token
axis, [B, R*S, D], and a block-diagonal mask lets each see the shared prefix and itself, nothing else.
Knows nothing of prompts, letters or sweeps.

Shapes: B prompts, R rows so far, S suffix tokens, P prefix tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from caa_bench.engine.edit import Edit
from caa_bench.engine.steer import hidden_of, with_hidden
from caa_bench.models.blocks import base_model, blocks


class Unshareable(Exception):
    """This model's blocks take or return something that cannot be spread over rows."""


class Rows:
    """Conditions in the order in which they join the pack; row 0 is the unsteered one.

    Args:
        conditions: edits of each condition; those without any stay row 0.
        layers: how many blocks the model has.
    """

    def __init__(self, conditions: Sequence[Sequence[Edit]], layers: int) -> None:
        joins = [min((edit.layer for edit in edits), default=layers) for edits in conditions]
        order = sorted((row for row in range(len(conditions)) if joins[row] < layers), key=lambda row: joins[row])
        place = {condition: row for row, condition in enumerate(order, start=1)}
        self.row_of = [place.get(condition, 0) for condition in range(len(conditions))]
        self.count = len(order) + 1
        self.joining: dict[int, list[Tensor]] = {}  # layer -> summed delta of each row that joins after that block
        self.later: dict[int, list[tuple[int, Tensor]]] = {}  # layer -> (row, delta) of rows already in the pack
        for condition in order:
            first = joins[condition]
            deltas = [edit.delta for edit in conditions[condition] if edit.layer == first]
            self.joining.setdefault(first, []).append(torch.stack([delta.float() for delta in deltas]).sum(0))
            for edit in conditions[condition]:
                if edit.layer > first:
                    self.later.setdefault(edit.layer, []).append((place[condition], edit.delta))
        self._stacked: dict[int, Tensor] = {}

    def stacked(self, layer: int, like: Tensor) -> Tensor:
        """Deltas of the rows that join after `layer`, moved to the hidden state once. [rows, D]"""
        if layer not in self._stacked:
            self._stacked[layer] = torch.stack(self.joining[layer]).to(like)
        return self._stacked[layer]


@contextmanager
def packed(model: nn.Module, rows: Rows, *, prefix: int, suffix: int, start: int = 1) -> Iterator[None]:
    """Inside, one forward of the suffix after a cached prefix carries `rows`; the head sees last positions: [B, R, V].

    Args:
        prefix: P, padding included.
        suffix: S of each row.
        start: rows that the input itself brings, side by side (contrast pairs: one a letter); more than one only
            where no further rows join.

    Raises:
        Unshareable: during the forward, if a block has a tensor argument whose meaning is unknown.
    """
    head = base_model(model).get_output_embeddings()  # type: ignore[operator]
    pack = _Pack(rows, prefix=prefix, suffix=suffix, start=start)
    with ExitStack() as hooks:
        for layer, block in enumerate(blocks(model)):
            signature = inspect.signature(block.forward)
            hooks.callback(block.register_forward_pre_hook(pack.entering(signature), with_kwargs=True).remove)
            if layer in rows.joining or layer in rows.later:
                hooks.callback(block.register_forward_hook(pack.leaving(layer)).remove)
        if head is not None:
            hooks.callback(head.register_forward_pre_hook(pack.last_positions).remove)
        yield


class _Pack:
    """State of one suffix pass: how many rows there are by now, and what was built for that many."""

    def __init__(self, rows: Rows, *, prefix: int, suffix: int, start: int) -> None:
        self.rows, self.prefix, self.suffix, self.start = rows, prefix, suffix, start
        self.now = start
        self.device = torch.device("cpu")  # of the block under way
        # Masks and positions are shared by blocks: built once for each number of rows. The original is kept too,
        # so that its id stays its own.
        self._built: dict[tuple[int, int], tuple[Any, Any]] = {}

    def entering(self, signature: inspect.Signature) -> Callable[..., Any]:
        """Pre-hook of a block: widen masks and positions to as many rows as the hidden state has."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.now == 1:
                return None
            bound = signature.bind(*args, **kwargs)
            names = list(bound.arguments)
            self.device = bound.arguments[names[0]].device
            for name in names[1:]:  # the first is the hidden state, wide already
                value = bound.arguments[name]
                if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = {key: self._widened(key, item) for key, item in value.items()}
                else:
                    bound.arguments[name] = self._widened(name, value)
            return bound.args, bound.kwargs

        return hook

    def leaving(self, layer: int) -> Callable[..., Any]:
        """Hook of a block: steer rows that are there, and let in those that this block's edit sets apart."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            table = hidden.unflatten(1, (self.now, self.suffix))  # [B, R, S, D]
            if layer in self.rows.later:
                table = table.clone()
                for row, delta in self.rows.later[layer]:
                    table[:, row] += delta.to(table)
            if layer in self.rows.joining:
                deltas = self.rows.stacked(layer, hidden)
                table = torch.cat([table, table[:, :1] + deltas[None, :, None]], dim=1)
                self.now = table.shape[1]
            return with_hidden(output, table.flatten(1, 2))

        return hook

    def last_positions(self, _module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Pre-hook of the head: logits are made for the last token of each row only."""
        hidden = args[0]
        table = hidden.reshape(-1, self.now, self.suffix, hidden.shape[-1])  # GPT-2 unflattens to [B*R, S, D]
        return (table[:, :, -1], *args[1:])

    def _widened(self, name: str, value: Any) -> Any:
        """An argument of a block for all rows."""
        if name.startswith("position") and isinstance(value, Tensor | tuple):
            make: Callable[[Any], Any] = self._wide_positions
        elif name == "attention_mask":
            make = self._wide_mask
        elif isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)):
            raise Unshareable(f"its blocks take a tensor `{name}`")
        else:
            return value
        key = (id(value), self.now)
        if key not in self._built:
            self._built[key] = (value, make(value))
        return self._built[key][1]

    def _wide_positions(self, value: Any) -> Any:
        """Positions or rotary tables, [B or 1, start*S, ...], repeated for each row."""
        if isinstance(value, tuple):
            return tuple(self._wide_positions(item) for item in value)
        if value.ndim < 2 or value.shape[1] != self.start * self.suffix:
            raise Unshareable(f"its blocks take positions of shape {tuple(value.shape)}")
        return value.repeat(1, self.now // self.start, *[1] * (value.ndim - 2))

    def _wide_mask(self, mask: Tensor | None) -> Tensor:
        """Mask of one row -> block-diagonal mask of all. [B, 1, R*S, P + R*S], bool or additive"""
        rows, size, prefix = self.now, self.suffix, self.prefix
        if mask is None:  # nothing to hide but the future: one token, or no padding at all
            mask = torch.ones(1, 1, size, prefix + size, dtype=torch.bool, device=self.device).tril(prefix)
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            raise Unshareable("its attention takes no 4D mask (load it with `sdpa` or `eager` attention)")
        one = mask[:, :, :size, : prefix + size]
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        own = one.new_full((*one.shape[:2], rows, size, rows, size), hidden)
        index = torch.arange(rows, device=mask.device)
        own[:, :, index, :, index] = one[..., prefix:]
        wide = one[..., :prefix].repeat(1, 1, rows, 1)
        return torch.cat([wide, own.flatten(4, 5).flatten(2, 3)], dim=-1)
