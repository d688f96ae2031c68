"""Prompts -> fixed batches of similar length, left-padded. Knows nothing of models.

Shapes: N prompts, B prompts of one batch, T tokens after padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caa_bench.prompts import Prompt

# What starting another batch costs, in tokens: on 2 CPU cores a forward of 512 x 12 layers has about 50 tokens' worth of
# fixed cost, on a GPU more; a batch is split wherever that saves more padding than this.
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


def batched(prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Group prompts by length: indices of each batch, a pure function of the lengths, so that a plan can be resumed.

    Sorted by (steered tokens, length); the cuts minimise padded tokens plus a fixed cost a batch, at most
    `batch_size` in one.

    Raises:
        ValueError: batch_size is below 1, or a prompt is empty or has its first position outside.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size ({batch_size}) must be at least 1")
    for row, prompt in enumerate(prompts):
        if not 0 <= prompt.first_position < len(prompt.ids):
            raise ValueError(
                f"prompt {row}: first_position ({prompt.first_position}) must be in 0..{len(prompt.ids) - 1}"
            )
    order = sorted(range(len(prompts)), key=lambda row: (_steered(prompts[row]), len(prompts[row].ids), row))
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first n prompts, and where their last batch starts
    for end in range(1, len(order) + 1):
        candidates = []
        for start in range(max(0, end - batch_size), end):
            width = max(len(prompts[row].ids) for row in (order[start], order[end - 1]))
            steered = _steered(prompts[order[end - 1]])
            # A batch is split at the widest steered part, so mixing widths costs that part again.
            waste = sum(
                width - len(prompts[row].ids) + 8 * (steered - _steered(prompts[row])) for row in order[start:end]
            )
            candidates.append((best[start][0] + waste + _BATCH_COST, start))
        best.append(min(candidates))
    groups, end = [], len(order)
    while end:
        groups.append(order[best[end][1] : end])
        end = best[end][1]
    return groups[::-1]


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> Padded:
    """Left-pad token ids, so that the last column is every row's last token."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    positions = torch.arange(width, device=device) - (width - lengths)
    return Padded(ids=ids, mask=(positions >= 0).long(), positions=positions.clamp(min=0))


def _steered(prompt: Prompt) -> int:
    """S, the tokens from the first steered position on."""
    return len(prompt.ids) - prompt.first_position
