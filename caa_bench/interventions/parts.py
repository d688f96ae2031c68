"""What an intervention tells of itself: where its vector comes from, what it is made from, what its card shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.base import Intervention


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an applied vector comes from.

    Args:
        behavior: the behavior it was fitted on.
        layer: the layer it was taken at; None without one.
        model: the model it was fitted on; "" for the one it is applied in.
    """

    behavior: str
    layer: int | None
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """Another intervention that has to be fitted before the one that is made from it.

    Args:
        intervention: what `fit` fills or `load` reads, in place.
        pairs: what it learns from.
        model: the name of the model it is fitted on; "" for the model at hand.
    """

    intervention: Intervention
    pairs: Pairs
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class OnCard:
    """What an intervention says of itself on its card.

    Args:
        condition: the arguments of the `Condition` that the card's code steers with.
        facts: further lines of the card's table.
    """

    condition: str = "multiplier=1.0"
    facts: Mapping[str, str] = field(default_factory=dict)
