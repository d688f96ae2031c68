"""`power`: how many items a question needs."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import Command, newest_run, run_named
from caa_bench.commands.terminal import columns, wrapped
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.analysis.power import Noise
    from caa_bench.report import Report


LEAST, MOST = 1e-6, 1e6
"""Log-odds; beyond them a number is a slip of the keyboard, and no arithmetic holds."""


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
        parser.add_argument("--fits", type=int, default=1, help="with --sd: fits to be averaged (%(default)s)")
        parser.add_argument(
            "--fit-sd",
            type=float,
            default=0.0,
            help="with --sd: standard deviation of the effect over fits (%(default)g)",
        )
        parser.add_argument("--power", type=float, default=0.8, help="the chance to see it, 0-1 (%(default)s)")
        parser.add_argument("--json", action="store_true", help="the same as one JSON object")

    def run(self, options: Namespace) -> int:
        """Print how many items are needed, and what the number rests on."""
        from caa_bench.analysis.power import Noise
        from caa_bench.report import make_report

        _check(options)
        if options.sd is not None:
            noise = Noise(items=options.sd, fits=options.fit_sd / math.sqrt(options.fits), n_fits=options.fits)
            print(_from_numbers(options.effect, noise, power=options.power, as_json=options.json))
            return 0
        report = make_report(run_named(options.folder) if options.folder else newest_run())
        found = needs(report, effect=options.effect, power=options.power)
        if not found:
            raise UserError(f"{report.folder}: holds no stack to ask about; give --effect and --sd")
        shown = _needs_json if options.json else needs_text
        print(shown(found, effect=options.effect, power=options.power))
        return 0


def _check(options: Namespace) -> None:
    mistakes = []
    if not 0 < options.power < 1:
        mistakes.append(f"--power: {options.power:g} is no chance; give one between 0 and 1, such as 0.8")
    if options.effect is not None and not LEAST <= abs(options.effect) <= MOST:
        mistakes.append(
            f"--effect: no number of items shows an effect of {options.effect:g}; give one of {LEAST:g} to {MOST:g}"
        )
    if options.sd is not None and not 0 <= options.sd <= MOST:
        mistakes.append(f"--sd: {options.sd:g} is no standard deviation; give 0 to {MOST:g}")
    if options.sd is not None and options.effect is None:
        mistakes.append("--sd: needs --effect too, the mean effect that is to be seen")
    if options.fits < 1:
        mistakes.append(f"--fits: {options.fits} is no number of fits; give 1 or more")
    if not 0 <= options.fit_sd <= MOST:
        mistakes.append(f"--fit-sd: {options.fit_sd:g} is no standard deviation; give 0 to {MOST:g}")
    elif options.fit_sd and options.fits == 1:
        mistakes.append("--fit-sd: one fit cannot show it; give --fits of 2 or more")
    if options.sd is None and (options.fits != 1 or options.fit_sd):
        mistakes.append("--fits: a run has its own; give --sd too, or leave out --fits and --fit-sd")
    if options.sd is not None and options.folder:
        mistakes.append("--sd: a run has its own; leave out either the run folder or --sd")
    if mistakes:
        raise UserError(*mistakes)


def _from_numbers(effect: float, noise: Noise, *, power: float, as_json: bool) -> str:
    from caa_bench.analysis.estimates import MIN_ITEMS
    from caa_bench.analysis.power import items_needed, items_to_settle

    over = f"sd {noise.items:g} over items" + (f", {noise.n_fits} fits" if noise.n_fits > 1 else "")
    seen, kept = items_needed(effect, noise, power=power), items_to_settle(abs(effect), noise, power=power)
    if as_json:
        given = {"effect": effect, "sd": noise.items, "power": power}
        answer = {"items_to_see": seen, "items_to_settle": kept}
        return json.dumps(given | {name: items and max(items, MIN_ITEMS) for name, items in answer.items()}, indent=1)
    how = f"(log-odds, {over}, {power:.0%} power, two-sided 5%)"
    return wrapped(
        f"{_items_text(seen, noise)} needed to see a mean effect of {effect:g} {how}\n"
        f'{_items_text(kept, noise)} needed to settle "adds fully" where CAA\'s effect of {abs(effect):g} is kept '
        f"whole and these are the sds of the interaction; under {MIN_ITEMS} there is no interval"
    )


def _items_text(items: int | None, noise: Noise) -> str:
    from caa_bench.analysis.estimates import MIN_ITEMS
    from caa_bench.analysis.power import MOST_ITEMS

    if items is not None:
        return f"{max(items, MIN_ITEMS)} items are"
    return "no number of items is enough, more fits are" if noise.n_fits > 1 else f"more than {MOST_ITEMS:,} items are"


@dataclass(frozen=True, kw_only=True)
class Need:
    """One stack's question.

    Args:
        base: its base, with its own dose where that is not as fitted.
        dose: the vector's multiplier.
        n: items that this run has.
        alone: the vector alone, log-odds in the dose's direction.
        spread: standard deviation of the per-item interaction, log-odds.
        items: how many the question needs; None where more items answer nothing: the vector alone does next to nothing,
            the stack is not measurable, or the fits' own noise is too large.
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
    from caa_bench.analysis.power import Noise
    from caa_bench.report import words

    lines = report.at_headline("stacking")
    found = []
    for line in lines[lines["multiplier"].isin(report.headline.doses)].to_dict("records"):
        spread, of_fits = line["spread_items"], line["spread_fits"]
        wanted = None
        if not math.isnan(spread):
            noise = Noise.seen(items=spread, fits=of_fits, n_fits=int(line["n_fits"]))
            wanted = _items(line, noise=noise, effect=effect, power=power)
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
    from caa_bench.report.text import columns_of, folded, safe

    question = 'to settle "adds fully" where it is true' if effect is None else f"to see an interaction of {effect:g}"
    known = [need.items for need in found if need.items is not None]
    have = max((need.n for need in found), default=0)
    how = f"(log-odds, {power:.0%} power, two-sided 5%; this run has {have} items)"
    answer = (
        f"{max(known)} items are needed {question} on every base {how}"
        if known
        else f"no number of items is enough {question} {how}"
    )
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
    with columns_of(columns()):
        table = folded(["base", "dose", "n", "vector alone", "sd of the interaction", "items needed"], lines, names=2)
    parts = [wrapped(f"{answer}\n"), table]
    if len(known) < len(found):
        why = "the vector alone moves it by less than 0.25, the stack is not measurable by letters"
        parts.append(wrapped(f"n/a: {why}, or no number of items is enough; more items settle nothing there"))
    return safe("\n".join(parts))


def _needs_json(found: Sequence[Need], *, effect: float | None, power: float) -> str:
    """The same for a program; None where there is no answer."""
    stacks = [{name: None if value != value else value for name, value in vars(need).items()} for need in found]
    most = max((need.items for need in found if need.items is not None), default=None)
    return json.dumps({"effect": effect, "power": power, "items": most, "stacks": stacks}, indent=1)


def _items(line: Mapping[str, Any], *, noise: Noise, effect: float | None, power: float) -> int | None:
    from caa_bench.analysis.estimates import MIN_ITEMS
    from caa_bench.analysis.power import items_needed, items_to_settle
    from caa_bench.analysis.verdict import NOT_MEASURABLE, SMALLEST

    if effect is None and (
        not (line["alone_low"] > 0 and line["alone"] >= SMALLEST) or line["verdict"].startswith(NOT_MEASURABLE)
    ):
        return None  # `analysis.verdict` says so of any number of items
    found = (
        items_to_settle(line["alone"], noise, power=power)
        if effect is None
        else items_needed(effect, noise, power=power)
    )
    return None if found is None else max(found, MIN_ITEMS)
