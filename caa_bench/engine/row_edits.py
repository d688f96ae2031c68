"""Edits of rows that stand below one another in a batch: additions as one dense table, others row by row.

Shapes: R rows, S tokens of a forward, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit, Site, by_place
from caa_bench.engine.pack import edited_suffix
from caa_bench.engine.steer import on_site


@dataclass(eq=False)
class _Alike:
    """Rows of one condition: their places among those still there, and what they share at one site."""

    rows: list[int]
    edits: list[Edit]


class RowEdits:
    """What each row changes, all of it from the first position on.

    Args:
        edits: of each row; rows that are given the same list are edited together. R in number
    """

    def __init__(self, edits: Sequence[Sequence[Edit]]) -> None:
        self._dense: dict[tuple[int, Site], Tensor] = {}  # summed deltas, 0 where a row has none. [R, D]
        self._others: dict[tuple[int, Site], list[_Alike]] = {}
        alike: dict[int, list[int]] = {}
        for row, own in enumerate(edits):
            alike.setdefault(id(own), []).append(row)
        for rows in alike.values():
            for place, own in by_place(edits[rows[0]]).items():
                change = own[0].change
                if len(own) == 1 and own[0].is_plain and isinstance(change, Add):
                    if place not in self._dense:
                        self._dense[place] = torch.zeros(len(edits), len(change.delta), device=change.delta.device)
                    self._dense[place][rows] = change.delta.float().to(self._dense[place].device)
                else:
                    self._others.setdefault(place, []).append(_Alike(rows=rows, edits=own))

    @contextmanager
    def applied(self, model: nn.Module, *, start: int) -> Iterator[None]:
        """Inside, forwards of exactly these rows are edited.

        Args:
            start: how many positions after the first one the forward begins.
        """
        with ExitStack() as hooks:
            for layer, site in {**self._dense, **self._others}:
                change = partial(self._edited, (layer, site), start)
                hooks.callback(on_site(model, layer, site, change).remove)
            yield

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in this order."""
        self._dense = {place: delta[torch.tensor(rows, device=delta.device)] for place, delta in self._dense.items()}
        new = {row: place for place, row in enumerate(rows)}
        self._others = {
            place: [
                _Alike(rows=left, edits=one.edits)
                for one in own
                if (left := [new[row] for row in one.rows if row in new])
            ]
            for place, own in self._others.items()
        }

    def _edited(self, place: tuple[int, Site], start: int, hidden: Tensor) -> Tensor:
        """The hidden states of the suffix, edited at one place. [R, S, D]"""
        if place in self._dense:
            self._dense[place] = self._dense[place].to(hidden)
            hidden = hidden + self._dense[place][:, None]
        others = self._others.get(place, ())
        if others:
            hidden = hidden.clone()
            for one in others:
                hidden[one.rows] = edited_suffix(hidden[one.rows], one.edits, start=start)
        return hidden
