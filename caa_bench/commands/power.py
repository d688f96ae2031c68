"""`power`: how many items a question needs."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import Command, newest_run
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.report import Report


class Power(Command):
    """From the spread that a run saw, or from one given."""

    name = "power"
    help = "how many items a question needs, from a run or from an effect and its sd"

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the run folder, or the effect and spread that are taken instead of a run's."""
        parser.add_argument("folder", nargs="?", help="the run folder (default: the newest under runs/)")
        parser.add_argument(
            "--effect", type=float, help='what is to be seen, log-odds (default, from a run: the verdict "adds fully")'
        )
        parser.add_argument("--sd", type=float, help="standard deviation of the per-item effect; no run is read then")
        parser.add_argument("--power", type=float, default=0.8, help="the chance to see it, 0-1 (%(default)s)")

    def run(self, options: Namespace) -> int:
        """Print how many items are needed, and what the number rests on."""
        from caa_bench.report import make_report

        _check(options)
        if options.sd is not None:
            print(_from_numbers(options.effect, options.sd, power=options.power))
            return 0
        report = make_report(Path(options.folder) if options.folder else newest_run())
        found = needs(report, effect=options.effect, power=options.power)
        if not found:
            raise UserError(f"{report.folder}: holds no stack to ask about; give --effect and --sd")
        print(needs_text(found, effect=options.effect, power=options.power))
        return 0


def _check(options: Namespace) -> None:
    mistakes = []
    if not 0 < options.power < 1:
        mistakes.append(f"--power: {options.power:g} is no chance; give one between 0 and 1, such as 0.8")
    if options.effect is not None and not 0 < abs(options.effect) < float("inf"):
        mistakes.append(f"--effect: no number of items shows an effect of {options.effect:g}; give one that is not 0")
    if options.sd is not None and not 0 <= options.sd < float("inf"):
        mistakes.append(f"--sd: {options.sd:g} is no standard deviation; give 0 or more")
    if options.sd is not None and options.effect is None:
        mistakes.append("--sd: needs --effect too, the mean effect that is to be seen")
    if options.sd is not None and options.folder:
        mistakes.append("--sd: a run has its own; leave out either the run folder or --sd")
    if mistakes:
        raise UserError(*mistakes)


def _from_numbers(effect: float, sd: float, *, power: float) -> str:
    from caa_bench.analysis.estimates import MIN_ITEMS
    from caa_bench.analysis.power import items_needed, items_to_settle

    seen = max(items_needed(effect, sd, power=power), MIN_ITEMS)
    kept = max(items_to_settle(abs(effect), sd, power=power), MIN_ITEMS)
    return (
        f"{seen} items are needed to see a mean effect of {effect:g} (log-odds, sd {sd:g} over items, {power:.0%} "
        f'power, two-sided 5%)\n{kept} items are needed to settle "adds fully" where CAA\'s effect of {abs(effect):g} '
        f"is kept whole and {sd:g} is the sd of the interaction; under {MIN_ITEMS} there is no interval"
    )


@dataclass(frozen=True, kw_only=True)
class Need:
    """One stack's question.

    Args:
        base: its base, with its own dose where that is not as fitted.
        dose: the vector's multiplier.
        n: items that this run has.
        alone: the vector alone, log-odds in the dose's direction.
        spread: standard deviation of the per-item interaction, log-odds.
        items: how many the question needs; None where it has no answer (the vector alone does nothing there).
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
    from caa_bench.analysis.power import spread_of_items
    from caa_bench.report import words

    lines = report.at_headline("stacking")
    found = []
    for line in lines[lines["multiplier"].isin(report.headline.doses)].to_dict("records"):
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
    from caa_bench.report import words
    from caa_bench.report.text import columns, safe

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
    table = columns(["base", "dose", "n", "vector alone", "sd of the interaction", "items needed"], lines)
    parts = [f"{answer}\n", table]
    if len(known) < len(found):
        parts.append("n/a: the vector alone does nothing there, so nothing of it can be kept")
    return safe("\n".join(parts))


def _items(line: Mapping[str, Any], *, spread: float, effect: float | None, power: float) -> int | None:
    from caa_bench.analysis.estimates import MIN_ITEMS
    from caa_bench.analysis.power import items_needed, items_to_settle

    if effect is not None:
        return max(items_needed(effect, spread, power=power), MIN_ITEMS)
    if not line["alone_low"] > 0:
        return None
    return max(items_to_settle(line["alone"], spread, power=power), MIN_ITEMS)
