"""A vector a layer learned by gradient: Adam with one scale a layer, whose state is kept for a fit that goes on.

Shapes: L layers, D hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.storage.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("vectors", "mean", "square")


class LayerAdam:
    """Vectors from 0, and Adam with one scale a layer in the place of one a number.

    So a step has about length 1 in any basis. With a scale a number, the many directions in which the gradient is noise
    would each move as far as the one in which it is not.

    Args:
        key: of everything that decides what is learned.
        tensors: `vectors` and the running `mean` of their gradients [L, D], and that of its `square` [L, 1].
        steps: behind which they are.
    """

    def __init__(self, *, key: str, tensors: dict[str, Tensor], steps: int) -> None:
        self.key, self.tensors, self.steps = key, tensors, steps

    @classmethod
    def kept_in(cls, path: Path, *, key: str, like: Tensor) -> LayerAdam:
        """What an unfinished fit of the very same has kept; zeros of the shape of `like` where there is none. [L, D]"""
        import torch
        from safetensors import safe_open

        if path.is_file():
            with safe_open(path, framework="pt") as file:
                if file.metadata()["key"] == key:
                    tensors = {name: file.get_tensor(name) for name in NAMES}
                    return cls(key=key, tensors=tensors, steps=int(file.metadata()["steps"]))
        tensors = {name: torch.zeros(len(like), 1 if name == "square" else like.shape[1]) for name in NAMES}
        return cls(key=key, tensors=tensors, steps=0)

    @property
    def vectors(self) -> Tensor:
        """As they are added. [L, D]"""
        return self.tensors["vectors"]

    def keep(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        from safetensors.torch import save

        write_atomic(path, save(self.tensors, metadata={"key": self.key, "steps": str(self.steps)}))

    def step(self, gradient: Tensor, *, by: Tensor, remember: float = 0.9, remember_square: float = 0.999) -> None:
        """One step against the gradient.

        Args:
            gradient: of the vectors. [L, D]
            by: its length in each layer. [L, 1]
        """
        self.steps += 1
        square = gradient.pow(2).sum(dim=-1, keepdim=True)
        own = self.tensors
        own["mean"] = remember * own["mean"] + (1 - remember) * gradient
        own["square"] = remember_square * own["square"] + (1 - remember_square) * square
        mean, size = own["mean"] / (1 - remember**self.steps), own["square"] / (1 - remember_square**self.steps)
        own["vectors"] = own["vectors"] - by * (mean / size.sqrt().clamp_min(1e-30))
