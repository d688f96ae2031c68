"""Norm-preserving steering: a block's output is turned toward the CAA direction instead of pushed along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.interventions.base import Condition
from caa_bench.interventions.caa_direction import CAADirection

if TYPE_CHECKING:
    from caa_bench.engine.edit import Edit


class Angular(CAADirection):
    """|h| (cos(phi - t) u + sin(phi - t) r) with t = multiplier * degrees: h turned toward u, its norm unchanged.

    u is the layer's CAA direction, phi the angle between h and u, r the unit vector of h without its component along u.
    The turn acts on one block, from the last token of the instruction on, as CAA does; the theory asks for CAA's
    effect, with the sign of the dose, at no change of norm. On the embedded model (refusal, 12 items in both orders,
    layer 3) p(matching) is .01, .06, .43, .91 and .99 at -20, -10, 0, 10 and 20 degrees; at 30 it turns back.
    Angular Steering (Vu & Nguyen 2025, arXiv 2510.26243) turns in one plane that is the same for all states, found by
    PCA, in every layer and at every position; this is the turn in the plane of each state and the direction.
    """

    name = "angular"

    @dataclass(frozen=True, kw_only=True)
    class Config(CAADirection.Config):
        """Recipe section `angular`.

        Args:
            degrees: of the turn at dose 1.
        """

        degrees: float = 10.0

        def __post_init__(self) -> None:
            CAADirection.Config.__post_init__(self)
            if not 0 < self.degrees <= 180:
                raise ValueError(f"degrees: {self.degrees:g} is no such turn; give more than 0, 180 at most")

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One turn, at the condition's layer."""
        from caa_bench.engine.changes import Rotate
        from caa_bench.engine.edit import Edit

        angle = math.radians(self.config.degrees * condition.multiplier)
        return [Edit(self._layer(condition), Rotate(self.direction(condition), angle))]

    @property
    def acts(self) -> str:
        """One block, from the end of the instruction on."""
        return (
            "Turns the output of ONE decoder block (counted from 0) toward the vector, by the multiplier times its "
            "degrees, at every position from the last token of the instruction on; its norm stays"
        )

    def _layer(self, condition: Condition) -> int:
        if condition.layer is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        return condition.layer
