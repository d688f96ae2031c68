"""Contrastive Activation Addition (arXiv 2312.06681, section 3): the mean difference at the answer letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.behaviors.subset import resampled_places
from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.parts import Ingredient, Source
from caa_bench.interventions.vectors import SteeringVector, grid_mistakes
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.activations import PairActivations
    from caa_bench.interventions.vectors import Diagnostics
    from caa_bench.models.model import ChatModel


class CAA(SteeringVector):
    """The mean over pairs of (matching - other) block outputs at the answer letter, all layers from one pass.

    After `fit`, `activations` is what was averaged where the vector is raw, on the disk, so that placebos need no
    second pass.

    Args:
        config: its recipe section.
        keep_activations: False forgets them: hundreds of MB of disk for a large model.
        **settings: the recipe section's keys: `CAA(layers=[3], multipliers=[-1, 1])`.

    Example:
        >>> from caa_bench import CAA
        >>> CAA(layers=[3], multipliers=[-1, 1])
        CAA(layers=(3,), multipliers=(-1.0, 1.0))
    """

    name = "caa"
    grid = ("layers", "multipliers")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `caa`.

        Args:
            layers: blocks to steer, each alone: a list, `default` (the model config's layer), `range` (those of its
                `layer_range`, where steering works in most models), or `all`.
            multipliers: doses; 0 is always measured, once a base.
            normalize: behaviors over which each layer's norm is averaged: the vector is rescaled to that mean norm.
                Empty: the raw vector.
            vector_behavior: take the vector of another behavior; empty: the measured behavior's own.
            vector_layer: take the vector of this layer and add it at each steered layer; null: each layer's own.
            resample: 0 averages every training pair; 1, 2, ... a bootstrap resample of the items, another one for each
                number. `fits` of the recipe sets it.
            vector_model: take the vector that another model (named as in `model`, with as many layers of the same
                width) gives for the same pairs; it is loaded to fit alone. Empty: the measured model's own.
        """

        layers: Literal["default", "range", "all"] | tuple[int, ...] = "default"
        multipliers: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
        normalize: tuple[str, ...] = ()
        vector_behavior: str = ""
        vector_layer: int | None = None
        vector_model: str = ""
        resample: int = 0

        def __post_init__(self) -> None:
            if self.layers == ():
                raise ValueError("layers: an empty list; name a layer, or take caa out of vectors")
            if not any(self.multipliers):
                raise ValueError("multipliers: no dose but 0; give one, or take caa out of vectors")

    def __init__(
        self, config: Any = None, *, variant: str = "", keep_activations: bool = True, **settings: Any
    ) -> None:
        super().__init__(config, variant=variant, **settings)
        self.activations: PairActivations | None = None
        self._keep_activations = keep_activations
        self._raw: dict[str, CAA] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the activations, which are a file of this one and only placebos read."""
        return vars(self) | {"activations": None}

    def check(self, layers: Layers) -> list[str]:
        """Layers that the model does not have, and another model that is not there or does not fit."""
        steered = () if isinstance(self.config.layers, str) else self.config.layers
        taken = () if self.config.vector_layer is None else (self.config.vector_layer,)
        mistakes = grid_mistakes("caa.layers", steered, layers) + grid_mistakes("caa.vector_layer", taken, layers)
        return mistakes + self._model_mistakes(layers)

    def conditions(self, layers: Layers) -> list[Condition]:
        """Every layer x multiplier; 0 is left to the base's own unsteered row."""
        first, last = layers.range or (0, layers.count - 1)
        named = {
            "default": (layers.default,),
            "range": tuple(range(first, last + 1)),
            "all": tuple(range(layers.count)),
        }
        steered = named[self.config.layers] if isinstance(self.config.layers, str) else self.config.layers
        doses = [multiplier for multiplier in self.config.multipliers if multiplier != 0]
        return [Condition(layer=layer, multiplier=multiplier) for layer in steered for multiplier in doses]

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """The raw vectors that a normalized or a transferred one is made from; shared by every behavior of a run."""
        if not (self.config.normalize or self.config.vector_model):
            return []
        for name in (self._own_behavior(pairs), *self.config.normalize):
            self._raw.setdefault(name, CAA(CAA.Config(resample=self.config.resample), keep_activations=False))
        return [
            Ingredient(
                intervention=raw,
                pairs=pairs if name == pairs.behavior else pairs.of(name),
                model=self.config.vector_model,
            )
            for name, raw in self._raw.items()
        ]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Average the differences in double; rescale where `normalize` names behaviors (paper appendix, PROTOCOL).

        Raises:
            UserError: `vector_model` has other layers than `model`.
        """
        from caa_bench.analysis.diagnostics import as_lines

        parts = self.ingredients(pairs)
        if not parts:
            activations, own_pairs = self.read_activations(model, tokenizer, pairs), self.own_pairs(pairs)
            drawn = resampled_places(own_pairs, number=self.config.resample)
            self.vectors = activations.mean_difference(rows=drawn)
            self.diagnostics = as_lines(activations.diagnosed(own_pairs))
            self.activations = activations if self._keep_activations else None
            return
        missing = [part for part, raw in zip(parts, self._raw.values(), strict=True) if raw.vectors is None]
        if missing:
            with self._read_from(model, tokenizer) as chat:
                for part in missing:
                    part.intervention.fit(chat.model, chat.tokenizer, part.pairs)
        raw = self._raw[self._own_behavior(pairs)]
        own = raw.fitted()
        self._refuse_other_shape(own, model)
        self.vectors = own * self._scale(own) if self.config.normalize else own
        self.diagnostics = self._of_raw(raw)
        self._raw = {}  # another fit is another model or other pairs

    def another_fit(self, number: int, *, made: Mapping[str, Intervention]) -> Intervention:
        """The vector of another bootstrap resample of the training items."""
        again = CAA(replace(self.config, resample=number), keep_activations=self._keep_activations)
        again.number, again.arm = str(number), self.arm
        return again

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """The mean difference with the sign turned in these items: no forward where `activations` are still there."""
        from caa_bench.interventions.activations import exchanged_mean, stand_in

        activations = self.activations or self.read_activations(model, tokenizer, pairs)
        own = self.own_pairs(pairs)
        if not self.config.normalize:
            return exchanged_mean(activations, own, exchanged=exchanged)
        return stand_in(self.fitted(), activations, own, exchanged=exchanged)

    def read_activations(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs
    ) -> PairActivations:
        """Both sides of the pairs of the vector's own behavior in the model that it is taken from. [P, 2, L, D]"""
        from caa_bench.interventions.activations import read_activations

        with self._read_from(model, tokenizer) as chat:
            return read_activations(chat.model, chat.tokenizer, self.own_pairs(pairs))

    def own_pairs(self, pairs: Pairs) -> Pairs:
        """Those of `vector_behavior` where it is set, else the measured behavior's."""
        return pairs.of(self.config.vector_behavior) if self.config.vector_behavior else pairs

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """The vector's own behavior and those it is normalized over."""
        named = {self._own_behavior(pairs): "vector_behavior"}
        for name in self.config.normalize:
            named.setdefault(name, "normalize")
        return {
            name: (pairs if name == pairs.behavior else _pairs_named(pairs, name, key=key)).key
            for name, key in sorted(named.items())
        }

    def vector_layer(self, condition: Condition) -> int | None:
        """`config.vector_layer` where it is set, else the steered layer."""
        return condition.layer if self.config.vector_layer is None else self.config.vector_layer

    def source(self, condition: Condition, *, behavior: str) -> Source:
        """The behavior, layer and model that the vector was taken from."""
        return Source(
            behavior=self.config.vector_behavior or behavior,
            layer=self.vector_layer(condition),
            model=self.config.vector_model,
        )

    def _of_raw(self, raw: CAA) -> Diagnostics:
        """The raw pairs' diagnostics with the length that is added; the residual norm of another model says nothing."""
        kept: dict[str, Any] = {"residual_norm": None} if self.config.vector_model else {}
        norms = self.fitted().double().norm(dim=-1).tolist()
        return [
            {**line, **kept, "norm": float(f"{norm:.6g}")} for line, norm in zip(raw.diagnostics, norms, strict=False)
        ]

    def _own_behavior(self, pairs: Pairs) -> str:
        return self.config.vector_behavior or pairs.behavior

    def _scale(self, own: Tensor) -> Tensor:
        """Mean norm over the named behaviors' raw vectors over this vector's own norm, per layer. [L, 1]"""
        import torch

        norms = [self._raw[name].fitted().norm(dim=-1, keepdim=True) for name in self.config.normalize]
        return torch.stack(norms).mean(dim=0) / own.norm(dim=-1, keepdim=True)

    @contextmanager
    def _read_from(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[ChatModel]:
        """The model whose activations are read: the given one, or `vector_model`, which is freed again."""
        from caa_bench.models.loading import Loading
        from caa_bench.models.model import ChatModel

        if not self.config.vector_model:
            yield ChatModel(name="", loading=Loading(), _model=model, _tokenizer=tokenizer)
            return
        dtype = str(model.dtype).removeprefix("torch.")
        chat = ChatModel.find(self.config.vector_model, changes={"dtype": dtype})
        try:
            yield chat
        finally:
            chat.free()

    def _model_mistakes(self, layers: Layers) -> list[str]:
        from caa_bench.models.model import ChatModel

        if not self.config.vector_model:
            return []
        try:
            other = ChatModel.find(self.config.vector_model)
        except UserError as error:
            return [f"caa.vector_{line}" for line in error.lines]
        known = other.layers
        if known is not None and (known.count, known.hidden) != (layers.count, layers.hidden):
            return [_other_shape(other.name, (known.count, known.hidden), (layers.count, layers.hidden))]
        return [f"caa.vector_{line}" for line in other.check()]

    def _refuse_other_shape(self, vectors: Tensor, model: PreTrainedModel) -> None:
        from caa_bench.models.blocks import hidden_size, num_layers

        found, wanted = (len(vectors), vectors.shape[1]), (num_layers(model), hidden_size(model))
        if found != wanted:
            raise UserError(_other_shape(self.config.vector_model, found, wanted))


def _other_shape(name: str, found: tuple[int, int], wanted: tuple[int, int]) -> str:
    return (
        f"caa.vector_model: {name} has {found[0]} layers of width {found[1]}, the measured model {wanted[0]} of width "
        f"{wanted[1]}; name a model of the same shape"
    )


def _pairs_named(pairs: Pairs, name: str, *, key: str) -> Pairs:
    """Another behavior's pairs; where there are none, the mistake is said of the key that names it."""
    try:
        return pairs.of(name)
    except UserError as error:
        raise UserError(*(f"caa.{key}: {line.removeprefix('behavior: ')}" for line in error.lines)) from None
