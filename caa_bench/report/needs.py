"""How many items the questions of a run need, from the spread that the run itself saw. docs/numbers.md 13."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.analysis.estimates import MIN_ITEMS
from caa_bench.analysis.power import items_needed, items_to_settle, spread_of_items
from caa_bench.report import words
from caa_bench.report.columns import columns
from caa_bench.report.headline import at_headline, headline, in_recipe_order, measured
from caa_bench.storage.files import terminal_safe

if TYPE_CHECKING:
    from caa_bench.report import Report


@dataclass(frozen=True, kw_only=True)
class Need:
    """One stack's question.

    Args:
        base: its base, with its own dose where that is not as fitted.
        dose: the vector's multiplier.
        n: items that this run has.
        alone: CAA alone, log-odds in the dose's direction.
        spread: standard deviation of the per-item interaction, log-odds.
        items: how many the question needs; None where it has no answer (CAA alone does nothing there).
    """

    base: str
    dose: float
    n: int
    alone: float
    spread: float
    items: int | None


def needs(report: Report, *, effect: float | None, power: float) -> list[Need]:
    """A line for each stack at the headline's layer and doses.

    Args:
        effect: the interaction to be seen, log-odds; None asks for the verdict "adds fully" where it is true.
        power: the chance to see it, 0-1.
    """
    chosen = headline(report)
    lines = in_recipe_order(at_headline(measured(report.stacking), chosen), report.manifest["recipe"].get("bases", []))
    found = []
    for line in lines[lines["multiplier"].isin(chosen.doses)].to_dict("records"):
        spread = spread_of_items(line["detectable_effect"], line["n"])
        wanted = None if math.isnan(spread) else _items(line, spread=spread, effect=effect, power=power)
        found.append(
            Need(
                base=words.named(line["base"], line["base_dose"]),
                dose=line["multiplier"],
                n=int(line["n"]),
                alone=line["alone"],
                spread=spread,
                items=wanted,
            )
        )
    return found


def needs_text(found: Sequence[Need], *, effect: float | None, power: float) -> str:
    """The answer in a sentence, then a line a stack."""
    question = 'to settle "adds fully" where it is true' if effect is None else f"to see an interaction of {effect:g}"
    known = [need.items for need in found if need.items is not None]
    have = max((need.n for need in found), default=0)
    how = f"(log-odds, {power:.0%} power, two-sided 5%; this run has {have} items)"
    answer = f"{max(known)} items are needed {question} on every base {how}" if known else f"no answer {question} {how}"
    lines = [
        [
            need.base,
            words.dose(need.dose),
            str(need.n),
            words.number(need.alone),
            words.number(need.spread),
            words.NA if need.items is None else str(need.items),
        ]
        for need in found
    ]
    table = columns(["base", "dose", "n", "CAA alone", "sd of the interaction", "items needed"], lines)
    parts = [f"{answer}\n", table]
    if len(known) < len(found):
        parts.append("n/a: CAA alone does nothing there, so nothing of it can be kept")
    return "\n".join(terminal_safe(line).rstrip() for line in "\n".join(parts).split("\n"))


def _items(line: dict[str, float], *, spread: float, effect: float | None, power: float) -> int | None:
    if effect is not None:
        return max(items_needed(effect, spread, power=power), MIN_ITEMS)
    if not line["alone_low"] > 0:
        return None
    return max(items_to_settle(line["alone"], spread, power=power), MIN_ITEMS)
