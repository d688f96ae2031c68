"""`power`: how many items a question needs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from caa_bench.commands.base import Command, newest_run
from caa_bench.errors import UserError


class Power(Command):
    """From the spread that a run saw, or from one given."""

    name = "power"
    help = "how many items a question needs, from a run or from an effect and its sd"

    def add_options(self, parser: ArgumentParser) -> None:
        """A run, or numbers."""
        parser.add_argument("folder", nargs="?", help="the run folder (default: the newest under runs/)")
        parser.add_argument(
            "--effect", type=float, help='what is to be seen, log-odds (default, from a run: the verdict "adds fully")'
        )
        parser.add_argument("--sd", type=float, help="standard deviation of the per-item effect; no run is read then")
        parser.add_argument("--power", type=float, default=0.8, help="the chance to see it, 0-1 (%(default)s)")

    def run(self, options: Namespace) -> int:
        """Print the number first."""
        from caa_bench.report import make_report
        from caa_bench.report.needs import needs, needs_text

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
