"""Contrastive Activation Addition (arXiv 2312.06681, section 3): the mean difference at the answer letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.base import Condition, Layers, Source
from caa_bench.interventions.vectors import SteeringVector, grid_mistakes, letter_differences

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behavior import Pairs


class CAA(SteeringVector):
    """The mean over pairs of (matching - other) block outputs at the answer letter, all layers from one pass.

    After `fit`, `differences` still holds what was averaged, so that placebos need no second pass. [N, L, D]
    """

    name = "caa"
    grid = ("layers", "multipliers")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `caa`.

        Args:
            layers: blocks to steer, each alone: a list, `all`, or `default` (the model config's layer).
            multipliers: doses; 0 is always measured, once a base.
            normalize: behaviors over which each layer's norm is averaged: the vector is rescaled to that mean norm.
                Empty: the raw vector.
            vector_behavior: take the vector of another behavior; empty: the measured behavior's own.
            vector_layer: take the vector of this layer and add it at each steered layer; null: each layer's own.
        """

        layers: Literal["default", "all"] | tuple[int, ...] = "default"
        multipliers: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
        normalize: tuple[str, ...] = ()
        vector_behavior: str = ""
        vector_layer: int | None = None

    def __init__(self, config: Any = None, *, variant: str = "") -> None:
        super().__init__(config, variant=variant)
        self.differences: Tensor | None = None

    def check(self, layers: Layers) -> list[str]:
        """Layers that the model does not have."""
        steered = () if isinstance(self.config.layers, str) else self.config.layers
        taken = () if self.config.vector_layer is None else (self.config.vector_layer,)
        return grid_mistakes("caa.layers", steered, layers) + grid_mistakes("caa.vector_layer", taken, layers)

    def conditions(self, layers: Layers) -> list[Condition]:
        """Every layer x multiplier; 0 is left to the base's own unsteered row."""
        named: dict[str, tuple[int, ...]] = {"default": (layers.default,), "all": tuple(range(layers.count))}
        steered = named[self.config.layers] if isinstance(self.config.layers, str) else self.config.layers
        doses = [multiplier for multiplier in self.config.multipliers if multiplier != 0]
        return [Condition(layer=layer, multiplier=multiplier) for layer in steered for multiplier in doses]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Average the differences in fp32; rescale where `normalize` names behaviors (paper appendix, PROTOCOL)."""
        own = pairs.of(self.config.vector_behavior) if self.config.vector_behavior else pairs
        self.differences = letter_differences(model, tokenizer, own)
        raw = mean_vector(self.differences)
        self.vectors = raw * self._scale(model, tokenizer, own, raw=raw) if self.config.normalize else raw

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """The vector's own behavior and those it is normalized over."""
        names = {self.config.vector_behavior or pairs.behavior, *self.config.normalize}
        return {name: (pairs if name == pairs.behavior else pairs.of(name)).key for name in sorted(names)}

    def vector_layer(self, condition: Condition) -> int | None:
        """`config.vector_layer` where it is set, else the steered layer."""
        return condition.layer if self.config.vector_layer is None else self.config.vector_layer

    def source(self, condition: Condition, *, behavior: str) -> Source:
        """The behavior and layer that the vector was taken from."""
        return Source(behavior=self.config.vector_behavior or behavior, layer=self.vector_layer(condition))

    def _scale(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Pairs, *, raw: Tensor) -> Tensor:
        """Mean norm over the named behaviors over this vector's own norm, per layer. [L, 1]"""
        import torch

        norms = []
        for name in self.config.normalize:
            same = name == own.behavior
            vectors = raw if same else mean_vector(letter_differences(model, tokenizer, own.of(name)))
            norms.append(vectors.norm(dim=-1, keepdim=True))
        return torch.stack(norms).mean(dim=0) / raw.norm(dim=-1, keepdim=True)


def mean_vector(differences: Tensor) -> Tensor:
    """Mean over pairs, summed in double: a bf16 pair difference alone carries about 15% noise. [N, L, D] -> [L, D]"""
    return differences.double().mean(dim=0).float()
