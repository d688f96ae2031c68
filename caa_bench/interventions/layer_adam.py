"""A vector a layer learned by gradient, with the optimizer's state kept for a fit that goes on.

Shapes: L layers, D hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caa_bench.interventions.gradient_steps import Adam
from caa_bench.storage.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor


class LayerAdam:
    """Vectors from 0, moved by `Adam`.

    Args:
        key: of everything that decides what is learned.
        vectors: as they are added. [L, D]
        adam: with as many steps behind it as the vectors have.
    """

    def __init__(self, *, key: str, vectors: Tensor, adam: Adam) -> None:
        self.key, self.vectors, self.adam = key, vectors, adam

    @classmethod
    def kept_in(cls, path: Path, *, key: str, like: Tensor) -> LayerAdam:
        """What an unfinished fit of the very same has kept; zeros of the shape of `like` where there is none. [L, D]"""
        import torch
        from safetensors import safe_open

        adam = Adam()
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                if file.metadata()["key"] == key:
                    adam.mean, adam.square = file.get_tensor("mean"), file.get_tensor("square")
                    adam.steps = int(file.metadata()["steps"])
                    return cls(key=key, vectors=file.get_tensor("vectors"), adam=adam)
        return cls(key=key, vectors=torch.zeros_like(like), adam=adam)

    @property
    def steps(self) -> int:
        """How many it has behind it."""
        return self.adam.steps

    def keep(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        import torch
        from safetensors.torch import save

        tensors = {name: torch.as_tensor(getattr(self.adam, name)).contiguous() for name in ("mean", "square")}
        tensors["vectors"] = self.vectors.contiguous()
        write_atomic(path, save(tensors, metadata={"key": self.key, "steps": str(self.steps)}))

    def step(self, gradient: Tensor, *, by: Tensor) -> None:
        """One step against the gradient.

        Args:
            gradient: of the vectors. [L, D]
            by: its length in each layer. [L, 1]
        """
        self.vectors = self.vectors - by * self.adam.step(gradient)
