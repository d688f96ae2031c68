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
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit, Site, by_place
from caa_bench.engine.steer import on_site
from caa_bench.models.blocks import base_model, blocks


class Unshareable(Exception):
    """This model's blocks take or return something that cannot be spread over rows."""


class Rows:
    """Conditions in the order in which they join the pack; row 0 is the unsteered one.

    Args:
        conditions: edits of each condition, all of which keep the prefix; those without any stay row 0.
        layers: how many blocks the model has.
    """

    def __init__(self, conditions: Sequence[Sequence[Edit]], layers: int) -> None:
        places = [by_place(edits) for edits in conditions]
        joins = [min((edit.follows for edit in edits), default=layers) for edits in conditions]
        first = [own.get((join, "block"), []) for own, join in zip(places, joins, strict=True)]
        # Rows that join with one addition stand together, so that a block lets them in at once
        added = [len(edits) == 1 and edits[0].is_plain for edits in first]
        order = sorted(
            (row for row in range(len(conditions)) if joins[row] < layers), key=lambda row: (joins[row], not added[row])
        )
        place = {condition: row for row, condition in enumerate(order, start=1)}
        self.row_of = [place.get(condition, 0) for condition in range(len(conditions))]
        self.count = len(order) + 1
        self.adding: dict[int, list[Tensor]] = {}  # block -> delta of each row that joins after it with one addition
        self.joining: dict[
            int, list[list[Edit]]
        ] = {}  # block -> edits of each other row that joins after it; -1: first
        self.later: dict[tuple[int, Site], list[tuple[int, list[Edit]]]] = {}  # place -> (row, edits) in the pack
        for condition in order:
            join, edits = joins[condition], first[condition]
            if added[condition] and isinstance(edits[0].change, Add):
                self.adding.setdefault(join, []).append(edits[0].change.delta.float())
            else:
                self.joining.setdefault(join, []).append(edits)
            self.later.setdefault((join, "block"), [])
            for where, own in places[condition].items():
                if where != (join, "block"):
                    self.later.setdefault(where, []).append((place[condition], own))
        self._stacked: dict[int, Tensor] = {}

    def joined(self, layer: int, unsteered: Tensor) -> list[Tensor]:
        """Rows that join after `layer`, made from the unsteered one. [B, S, D] -> [B, rows, S, D] each"""
        parts = []
        if layer in self.adding:
            if layer not in self._stacked:
                self._stacked[layer] = torch.stack(self.adding[layer]).to(unsteered)  # moved there once
            parts.append(unsteered[:, None] + self._stacked[layer][None, :, None])
        return parts + [edited_suffix(unsteered, edits)[:, None] for edits in self.joining.get(layer, [])]

    def joins_after(self, layer: int) -> bool:
        """Whether any row joins after this block."""
        return layer in self.adding or layer in self.joining


def edited_suffix(hidden: Tensor, edits: Sequence[Edit], *, start: int = 0) -> Tensor:
    """States from the first position on, edited in order; the first one itself is no part of the answer. [..., S, D]

    Args:
        start: how many positions after the first one the suffix begins.
    """
    for edit in edits:
        changed = edit.change(hidden)
        if edit.positions == "answer" and start == 0:
            changed = torch.cat([hidden[..., :1, :], changed[..., 1:, :]], dim=-2)
        hidden = changed
    return hidden


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
            entering = pack.entering(signature, opening=layer == 0)
            hooks.callback(block.register_forward_pre_hook(entering, with_kwargs=True).remove)
        for (layer, site), own in rows.later.items():
            if layer < 0:  # in front of all blocks, where `entering` lets rows in
                continue
            change = partial(pack.edited, layer, own) if site == "block" else partial(pack.edited, None, own)
            hooks.callback(on_site(model, layer, site, change).remove)
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

    def entering(self, signature: inspect.Signature, *, opening: bool) -> Callable[..., Any]:
        """Pre-hook of a block: widen masks and positions to as many rows as the hidden state has.

        Args:
            opening: of the first block, where rows join whose edit acts within it.
        """

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.now == 1 and not (opening and self.rows.joins_after(-1)):
                return None
            bound = signature.bind(*args, **kwargs)
            names = list(bound.arguments)
            if opening and self.rows.joins_after(-1):
                bound.arguments[names[0]] = self.edited(-1, [], bound.arguments[names[0]])
            self.device = bound.arguments[names[0]].device
            for name in names[1:]:  # the first is the hidden state, wide already
                value = bound.arguments[name]
                if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = {key: self._widened(key, item) for key, item in value.items()}
                else:
                    bound.arguments[name] = self._widened(name, value)
            return bound.args, bound.kwargs

        return hook

    def edited(self, layer: int | None, later: Sequence[tuple[int, Sequence[Edit]]], hidden: Tensor) -> Tensor:
        """Edit rows that are there, and let in those that are set apart from here on. [B, R*S, D]

        Args:
            layer: the block behind which rows join; None where none can.
            later: (row, edits) of rows in the pack.
        """
        table = hidden.unflatten(1, (self.now, self.suffix))  # [B, R, S, D]
        if later:
            table = table.clone()
            for row, edits in later:
                table[:, row] = edited_suffix(table[:, row], edits)
        if layer is not None and (joined := self.rows.joined(layer, table[:, 0])):
            table = torch.cat([table, *joined], dim=1)
            self.now = table.shape[1]
        return table.flatten(1, 2)

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
