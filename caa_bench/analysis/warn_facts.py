"""What a warning rule is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Severity = Literal["severe", "caution", "note"]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the tables do not know, for one behavior. None is "not known", and gives no warning.

    Args:
        train_share_a: share of train items keyed "A". (0-1)
        train_longer_share: share of train items whose matching option is the longer one. (0-1)
        halves: the leading dose's line on the items whose matching option is the longer one, and on the others
            (`halves.effect_by_half`).
        choice_at_edge: what of the chosen dose lies at the edge of its grid ("layer", "multiplier").
        near_duplicates: stems that nearly repeat across splits.
        test_opened: how often the test split was evaluated.
        unswapped: items asked in the given order only, because an option names letters.
        open_ended: columns `base, base_dose, layer, multiplier, shift_low, shift_high`: the judged shift of CAA there,
            and of each base alone (multiplier 0) from the unchanged model.
        vector: the leading vector's line of `diagnostics.vector_diagnostics` at the leading layer.
    """

    train_share_a: float | None = None
    train_longer_share: float | None = None
    halves: pd.DataFrame | None = None
    choice_at_edge: tuple[str, ...] = ()
    near_duplicates: int | None = None
    test_opened: int | None = None
    unswapped: int | None = None
    open_ended: pd.DataFrame | None = None
    vector: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of one run."""

    cells: pd.DataFrame
    stacking: pd.DataFrame
    shifts: pd.DataFrame
    reliability: pd.DataFrame

    def on_test(self, behavior: str) -> Tables:
        """The lines of one behavior, of its test split where there is one (a selection split warns of nothing)."""
        here = {name: table[table["behavior"] == behavior] for name, table in vars(self).items()}
        if (here["cells"]["split"] == "test").any():
            here = {name: table[table["split"] == "test"] for name, table in here.items()}
        return Tables(**here)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule found, before it is named."""

    severity: Severity
    text: str
    count: int = 1


Rule = Callable[[Tables, RunFacts], Found | None]
