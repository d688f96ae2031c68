"""What vectors and maps that are learned by gradient share: the order of the steps, the optimizer, the fixed weights.

Shapes: L layers, D hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from caa_bench.models.prompts import Prompt

LAYERS_AT_ONCE = 8
"""Layers whose rows share a suffix pass: more is faster and holds more for the gradient."""


class Adam:
    """Adam's step with one scale a layer in the place of one a number, so that a step has about length 1 in any basis.

    With a scale a number, the many directions in which the gradient is noise would each move as far as the one in
    which it is not.
    """

    def __init__(self, *, keep: float = 0.9, keep_square: float = 0.999) -> None:
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.keep, self.keep_square, self.steps = keep, keep_square, 0

    def step(self, gradient: Tensor) -> Tensor:
        """The direction to go against. [L, D] -> [L, D]"""
        self.steps += 1
        square = gradient.pow(2).sum(dim=-1, keepdim=True)
        self.mean = self.keep * self.mean + (1 - self.keep) * gradient
        self.square = self.keep_square * self.square + (1 - self.keep_square) * square
        mean, size = self.mean / (1 - self.keep**self.steps), self.square / (1 - self.keep_square**self.steps)
        return mean / size.sqrt().clamp_min(1e-30)


def epoch_steps(
    model: PreTrainedModel, prompts: Sequence[Prompt], *, batch_size: int, draw: random.Random
) -> list[list[int]]:
    """The rows of each step of an epoch: batches of prompts of like length, in a drawn order."""
    import torch

    from caa_bench.engine.batches import batched

    half = model.dtype in (torch.float16, torch.bfloat16)
    order = draw.sample(range(len(prompts)), len(prompts))
    found = [
        [order[place] for place in group] for group in batched([prompts[row] for row in order], batch_size, exact=half)
    ]
    draw.shuffle(found)
    return found


@contextmanager
def weights_fixed(model: PreTrainedModel) -> Iterator[None]:
    """No weight wants a gradient inside."""
    wanting = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in wanting:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in wanting:
            weight.requires_grad_(True)
