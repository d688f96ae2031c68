"""Rows -> one padded batch of token ids, a mask that keeps groups apart, and what to read where.

Shapes: B rows, T tokens, G groups of the whole batch (numbered from 1; 0 is the shared prompt), D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caa_bench.tiny.rows import Group, Plant, Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DECISIVE_TOKENS = 3  # the first tokens of an answer in words say its side
PADDING = -1


@dataclass(kw_only=True)
class Spots:
    """Where to read (row, token) and what belongs to it; grows while a batch is laid out."""

    row: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    index: list[int] = field(default_factory=list)

    def add(self, row: int, token: int, *, value: float = 0.0, index: int = 0) -> None:
        """Add one place in the batch where something is changed or scored."""
        self.row.append(row)
        self.token.append(token)
        self.value.append(value)
        self.index.append(index)

    @property
    def at(self) -> tuple[Tensor, Tensor]:
        """Index into [B, T, ...]."""
        return torch.tensor(self.row, dtype=torch.long), torch.tensor(self.token, dtype=torch.long)

    @property
    def values(self) -> Tensor:
        """[number of spots]"""
        return torch.tensor(self.value)

    @property
    def indices(self) -> Tensor:
        """[number of spots]"""
        return torch.tensor(self.index, dtype=torch.long)


@dataclass(kw_only=True)
class Batch:
    """One batch.

    Args:
        ids / positions: token ids and rotary positions. [B, T]
        group: 0 for the prompt, the group's number after it, PADDING for padding. [B, T]
        fork: 1 for the letter A, 2 for the letter B where both follow one ` (` as alternatives, else 0. [B, T]
        groups: (its plant, its row), by number - 1. [G]
        rows: the rows. [B]
        choices: the ` (` before a letter; value: +1 where (A) matches, else -1; index: its group - 1.
        letters_a / letters_b: both letters of a fork; value: as above; index: the row's behavior.
        answers: the `]` before an answer in words; index: its group - 1.
        said: tokens whose successor is trained; value: weight; index: the successor.
        ends: last tokens of options; value: 1 for the matching one, else 0.
    """

    ids: Tensor
    positions: Tensor
    group: Tensor
    fork: Tensor
    groups: list[tuple[Plant, int]]
    rows: list[Row]
    choices: Spots
    answers: Spots
    letters_a: Spots
    letters_b: Spots
    said: Spots
    ends: Spots

    @cached_property
    def mask(self) -> Tensor:
        """Additive attention mask. [B, 1, T, T]"""
        query, key = self.group[:, :, None], self.group[:, None, :]
        seen = ((key == 0) | (key == query)).tril()
        seen &= ~((self.fork[:, :, None] == 2) & (self.fork[:, None, :] == 1))
        return torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]


class Layout:
    """Lays rows out as a batch, with one tokenizer.

    Args:
        tokenizer: the fast tokenizer's core.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.close, self.open, self.a, self.b = (self._one(text) for text in ("]", " (", "A", "B"))

    def length(self, row: Row) -> int:
        """About the number of tokens of a row."""
        return len(row.prompt) // 5 + sum(4 + len(group.text) // 5 for group in row.groups)

    def batch(self, rows: Sequence[Row]) -> Batch:
        """The batch of `rows`."""
        self.lists: dict[str, list[list[int]]] = {key: [] for key in ("ids", "positions", "group", "fork")}
        self.groups: list[tuple[Plant, int]] = []
        self.spots = {key: Spots() for key in ("choices", "answers", "letters_a", "letters_b", "said", "ends")}
        for i, row in enumerate(rows):
            self._row(i, row)
        width = max(map(len, self.lists["ids"]))
        tensors = {
            key: torch.tensor([line + [PADDING if key == "group" else 0] * (width - len(line)) for line in lines])
            for key, lines in self.lists.items()
        }
        return Batch(
            ids=tensors["ids"],
            positions=tensors["positions"],
            group=tensors["group"],
            fork=tensors["fork"],
            groups=self.groups,
            rows=list(rows),
            choices=self.spots["choices"],
            answers=self.spots["answers"],
            letters_a=self.spots["letters_a"],
            letters_b=self.spots["letters_b"],
            said=self.spots["said"],
            ends=self.spots["ends"],
        )

    def _row(self, i: int, row: Row) -> None:
        encoding = self.tokenizer.encode(row.prompt[:-1], add_special_tokens=False)
        prefix = len(encoding.ids)
        self.line = {
            "ids": list(encoding.ids),
            "positions": list(range(prefix)),
            "group": [0] * prefix,
            "fork": [0] * prefix,
        }
        for letter, option, matches in zip(
            "AB", row.options, (row.matching_first, not row.matching_first), strict=False
        ):
            start = row.prompt.rindex(f" ({letter}) {option}")
            token = encoding.char_to_token(start + len(f" ({letter}) {option}") - 1)
            assert token is not None  # noqa: S101 - the text is ours
            self.spots["ends"].add(i, token, value=float(matches))
        for group in row.groups:
            self._group(i, row, group, prefix)
        for key, line in self.line.items():
            self.lists[key].append(line)

    def _group(self, i: int, row: Row, group: Group, position: int) -> None:
        self.groups.append((group.plant, i))
        key = 1.0 if row.matching_first else -1.0
        at = self._push(self.close, position)
        if group.text:
            self._say(i, at, position, group)
            return
        self.spots["said"].add(i, at, value=0.3, index=self.open)
        at = self._push(self.open, position + 1)
        self.spots["choices"].add(i, at, value=key, index=len(self.groups) - 1)
        if group.fork:
            at = self._push(self.a, position + 2, fork=1)
            self.spots["letters_a"].add(i, at, value=key, index=row.behavior)
            at = self._push(self.b, position + 2, fork=2)
            self.spots["letters_b"].add(i, at, value=key, index=row.behavior)

    def _say(self, i: int, at: int, position: int, group: Group) -> None:
        ids = self.tokenizer.encode(group.text, add_special_tokens=False).ids
        self.spots["answers"].add(i, at, index=len(self.groups) - 1)
        for k, token in enumerate(ids):
            is_letter = k == 1 and ids[0] == self.open  # trained by regression instead
            weight = 0.0 if is_letter else 2.0 if k < DECISIVE_TOKENS else 1.0
            self.spots["said"].add(i, at, value=weight, index=token)
            if k < len(ids) - 1:
                at = self._push(token, position + 1 + k)

    def _push(self, token: int, position: int, fork: int = 0) -> int:
        self.line["ids"].append(token)
        self.line["positions"].append(position)
        self.line["group"].append(len(self.groups))
        self.line["fork"].append(fork)
        return len(self.line["ids"]) - 1

    def _one(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        assert len(ids) == 1, (text, ids)  # noqa: S101
        return ids[0]
