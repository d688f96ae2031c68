"""Prompts -> fixed batches of similar length, left-padded. Knows nothing of models.

Shapes: N prompts, B prompts of one batch, T tokens after padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caa_bench.models.prompts import Prompt

# What one more batch costs, in tokens: a batch is split wherever that saves more padding than this.
_BATCH_COST = 64


@dataclass(frozen=True, kw_only=True)
class Padded:
    """A left-padded batch.

    Args:
        ids: token ids, 0 where padded. [B, T]
        mask: 1 at real tokens. [B, T]
        positions: absolute position of each token, 0 where padded. [B, T]
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor


def batched(
    prompts: Sequence[Prompt], batch_size: int, *, exact: bool = False, batch_cost: int = _BATCH_COST
) -> list[list[int]]:
    """Group prompts by length: indices of each batch, a pure function of the lengths, so that a plan can be resumed.

    One batch holds one number of steered tokens (length minus first position), so that all rows split alike. Within
    that, the cuts through the sorted lengths minimize padded tokens plus a fixed cost a batch.

    Args:
        batch_size: most prompts in one batch.
        exact: for half precision, where padding moves last bits: equal lengths only, unless that would more than
            double the number of batches; then padded as above.
        batch_cost: what one more batch costs, in tokens of padding; decoding a second batch costs every step again.

    Raises:
        ValueError: batch_size is below 1, or a prompt's first position is not inside it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size ({batch_size}) must be at least 1")
    suffixes: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        last = len(prompt.ids) - 1
        if not 0 <= prompt.first_position <= last:
            raise ValueError(f"prompt {row}: first_position ({prompt.first_position}) must be in 0..{last}")
        suffixes.setdefault(last - prompt.first_position, []).append(row)
    groups = []
    for _, rows in sorted(suffixes.items()):
        rows.sort(key=lambda row: (len(prompts[row].ids), row))
        lengths = [len(prompts[row].ids) for row in rows]
        cuts = _cuts(lengths, batch_size, batch_cost)
        if exact and len(equal := _cuts(lengths, batch_size, batch_cost, padding=1_000_000)) <= 2 * len(cuts):
            cuts = equal
        groups += [rows[start:end] for start, end in cuts]
    return groups


def _cuts(lengths: Sequence[int], batch_size: int, batch_cost: int, *, padding: int = 1) -> list[tuple[int, int]]:
    """Cheapest division of sorted lengths into runs of at most `batch_size`; a padded token costs `padding`."""
    best = [(0, 0)]  # of the first n: their cost, and where their last run starts
    for end in range(1, len(lengths) + 1):
        waste, options = 0, []
        for start in range(end - 1, max(-1, end - 1 - batch_size), -1):
            waste += lengths[end - 1] - lengths[start]
            options.append((best[start][0] + padding * waste + batch_cost, start))
        best.append(min(options))
    cuts, end = [], len(lengths)
    while end:
        cuts.append((best[end][1], end))
        end = best[end][1]
    return cuts[::-1]


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> Padded:
    """Left-pad token ids, so that the last column is every row's last token."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    positions = torch.arange(width, device=device) - (width - lengths)
    return Padded(ids=ids, mask=(positions >= 0).long(), positions=positions.clamp(min=0))
