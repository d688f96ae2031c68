"""What other edits along the CAA direction share: the same pairs, and the same grid of layers and doses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.base import Condition
from caa_bench.interventions.caa import CAA
from caa_bench.interventions.parts import Ingredient
from caa_bench.interventions.vectors import SteeringVector, grid_mistakes
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs


class CAADirection(SteeringVector):
    """Takes the raw CAA vectors and puts them to another use; a subclass says which in `edits`.

    Args:
        config: its recipe section.
    """

    grid = ("layers", "multipliers")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The keys of every such section.

        Args:
            layers: whose vector is used: a list, `default`, `range` or `all`, as for `caa`.
            multipliers: doses; 0 is always measured, once a base.
        """

        layers: Literal["default", "range", "all"] | tuple[int, ...] = "default"
        multipliers: tuple[float, ...] = (-1.0, 1.0)

        def __post_init__(self) -> None:
            if self.layers == ():
                raise ValueError("layers: an empty list; name a layer")
            if not any(self.multipliers):
                raise ValueError("multipliers: no dose but 0; give one")

    def __init__(self, config: Any = None, *, variant: str = "") -> None:
        super().__init__(config, variant=variant)
        self._caa: CAA | None = None

    def check(self, layers: Layers) -> list[str]:
        """Layers that the model does not have."""
        named = () if isinstance(self.config.layers, str) else self.config.layers
        return grid_mistakes(f"{self.name}.layers", named, layers)

    def conditions(self, layers: Layers) -> list[Condition]:
        """Every layer x multiplier, as for `caa`."""
        config = CAA.Config(layers=self.config.layers, multipliers=self.config.multipliers)
        return CAA(config).conditions(layers)

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """The raw CAA vector of the same pairs, which a run shares with `caa` itself."""
        self._caa = self._caa or CAA()
        return [Ingredient(intervention=self._caa, pairs=pairs)]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Take over what CAA learned, or let it learn."""
        caa = self._caa or CAA()
        if caa.vectors is None:
            caa.fit(model, tokenizer, pairs)
        self.vectors, self.diagnostics = caa.fitted(), caa.diagnostics
        self._caa = None  # another fit is another model or other pairs

    def direction(self, condition: Condition) -> Tensor:
        """The vector of the condition's layer. [D]

        Raises:
            ValueError: the condition names no layer.
        """
        if condition.layer is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        return self.fitted()[condition.layer]
