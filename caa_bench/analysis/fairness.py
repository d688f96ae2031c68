"""Equal chances for every arm: choices on the selection split, matched doses, equal loss.

docs/numbers.md, "A fair comparison". What chooses refuses lines of the test split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

LEAST_MASS = 0.9
MOST_LOSS = 0.03
BUDGETS = (0.01, MOST_LOSS, 0.05)
"""Losses of p(correct) at which arms are compared."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A dose chosen on the selection split.

    Args:
        key: the chosen line's values of the columns that were tried.
        shift: its balanced log-odds shift, in the direction asked for.
        tries: lines looked at, to be printed: every arm gets the same number.
        eligible: how many of them kept the option mass and the capability.
        at_edge: the tried columns whose chosen value is the first or last of the values tried (three or more).
    """

    key: dict[str, float]
    shift: float
    tries: int
    eligible: int
    at_edge: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MatchedDose:
    """The base's dose whose effect alone is nearest to the target.

    Args:
        base_dose: the dose.
        total: its own effect on the selection split, log-odds.
        gap: `total` less the target; far from 0 says that no dose tried matches.
        tries: doses looked at.
        at_edge: whether it is the first or last of the doses tried (three or more).
    """

    base_dose: float
    total: float
    gap: float
    tries: int
    at_edge: bool


def choose_dose(
    shifts: pd.DataFrame,
    *,
    sign: int,
    over: tuple[str, ...] = ("layer", "multiplier"),
    effect: str = "shift",
) -> Choice | None:
    """The line with the largest shift in one direction among those that keep the option mass and the capability.

    Args:
        shifts: selection-split lines of one arm (`cells.shift_table`), columns `over`, `effect`, `option_mass` and,
            where measured, `capability_loss_high`, the upper end of the loss (0-1). Where it is known of some lines,
            the others cannot be chosen.
        sign: +1 or -1; a line that moves the other way is never chosen.
        over: the columns tried.

    Returns:
        None where no line qualifies. Ties go to the smaller dose, then the lower layer.

    Raises:
        ValueError: lines of the test split.
    """
    _refuse_test(shifts)
    pushed = sign * shifts[effect].to_numpy(float)
    kept = (shifts["option_mass"].to_numpy(float) >= LEAST_MASS) & (pushed > 0)
    if "capability_loss_high" in shifts and shifts["capability_loss_high"].notna().any():
        kept &= shifts["capability_loss_high"].to_numpy(float) <= MOST_LOSS
    if "multiplier" in over:
        kept &= sign * shifts["multiplier"].to_numpy(float) > 0
    if not kept.any():
        return None
    ranked = shifts.assign(_pushed=pushed, _size=shifts[list(over)[::-1]].abs().apply(tuple, axis=1))[kept]
    best = ranked.sort_values(["_pushed", "_size"], ascending=[False, True], kind="stable").iloc[0]
    return Choice(
        key={column: float(best[column]) for column in over},
        shift=float(best["_pushed"]),
        tries=len(shifts),
        eligible=int(kept.sum()),
        at_edge=tuple(column for column in over if _at_edge(shifts[column], best[column], sign=sign)),
    )


def matched_dose(shifts: pd.DataFrame, *, target: float) -> MatchedDose | None:
    """The dose of a base whose effect alone on the selection split is nearest to the vector's chosen dose's.

    Args:
        shifts: selection-split lines of one base, unsteered: columns `base_dose`, `total` (log-odds against the
            unchanged model).
        target: the vector's own shift at its chosen dose, log-odds, with its sign.

    Returns:
        None without a dose that has an effect. Ties go to the smaller dose.

    Raises:
        ValueError: lines of the test split.
    """
    _refuse_test(shifts)
    known = shifts[shifts["total"].notna()].sort_values("base_dose", kind="stable")
    if known.empty:
        return None
    best = known.iloc[int(np.argmin(np.abs(known["total"].to_numpy(float) - target)))]
    return MatchedDose(
        base_dose=float(best["base_dose"]),
        total=float(best["total"]),
        gap=float(best["total"]) - target,
        tries=len(shifts),
        at_edge=_at_edge(shifts["base_dose"], best["base_dose"], sign=1),
    )


def effect_at_equal_loss(curve: pd.DataFrame, *, budgets: tuple[float, ...] = BUDGETS) -> pd.DataFrame:
    """The largest effect each arm reaches within a capability loss: the arms side by side at equal cost.

    The upper end of the loss's interval decides: by the point, the dose among several whose loss happens to look small
    would pass (a true loss of .06 passed a budget of .03 in 24% of runs with 4 doses, 41% with 8). A description of the
    doses that were measured, on any split; a dose that is to be tested is chosen elsewhere.

    Args:
        curve: one line per arm and dose, columns `arm`, `effect` (log-odds, signed towards the goal),
            `capability_loss` and `capability_loss_high`, the upper end of its interval (0-1); whatever else it holds
            of a line is kept.

    Returns:
        Columns `arm, budget, effect, capability_loss, doses` (those within the budget), then the others; one line an
        arm, in the order of `curve`, and budget; missing where no dose is within it.
    """
    names = [name for name in curve if name != "arm"]
    lines = []
    for arm, part in curve.groupby("arm", sort=False):
        known = part.dropna(subset=["effect", "capability_loss_high"]).sort_values("effect", kind="stable")
        for budget in budgets:
            inside = known[known["capability_loss_high"] <= budget]
            best = inside.iloc[-1] if len(inside) else dict.fromkeys(names, np.nan)
            lines.append({"arm": arm, "budget": budget, "doses": len(inside)} | {name: best[name] for name in names})
    first = ["arm", "budget", "effect", "capability_loss", "doses"]
    return pd.DataFrame(lines, columns=[*first, *(name for name in names if name not in first)])


def _refuse_test(shifts: pd.DataFrame) -> None:
    if "split" in shifts and (shifts["split"] == "test").any():
        raise ValueError("a choice was asked of the test split; choices are made on the selection split")


def _at_edge(tried: pd.Series, chosen: float, *, sign: int) -> bool:
    """Whether the choice ends the grid, so that a wider grid might hold a better one."""
    values = tried[np.sign(tried) == sign] if tried.name == "multiplier" else tried
    values = np.unique(values.dropna().abs())
    return len(values) >= 3 and abs(chosen) in (values[0], values[-1])
