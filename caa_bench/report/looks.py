"""How a base looks in every figure: a color by intervention, marker and dash by variant; never color alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colors, told apart in every common kind of color blindness; the yellow is too pale for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
UNCHANGED = "#222222"
MARKERS = {"_positive": "up", "_negative": "down", "_neutral": "square", "": "diamond"}
DASHES = {"_positive": "", "_negative": "7 3", "_neutral": "2 3", "": "9 3 2 3"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One base's color, marker (`circle`, `up`, `down`, `square`, `diamond`) and SVG dash pattern."""

    color: str
    marker: str
    dash: str


def looks(bases: Iterable[str]) -> dict[str, Look]:
    """The look of each base; variants of one intervention share its color."""
    colors: dict[str, str] = {}
    found = {}
    for base in bases:
        if base == "none":
            found[base] = Look(color=UNCHANGED, marker="circle", dash="")
            continue
        variant = next((ending for ending in MARKERS if ending and base.endswith(ending)), "")
        family = base.removesuffix(variant)
        color = colors.setdefault(family, COLORS[len(colors) % len(COLORS)])
        found[base] = Look(color=color, marker=MARKERS[variant], dash=DASHES[variant])
    return found
