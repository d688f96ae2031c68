"""`tune`: finds each vector's layer and dose on the selection split, and keeps them as a model config.

caa-bench tune model=/my/model behavior=refusal data=caa --save my-model
caa-bench compare model=my-model behavior=refusal data=caa      # needs no search any more
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import RecipeCommand, benchmarks, quiet_libraries, rank_of_process
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Tune(RecipeCommand):
    """What `compare` does before it opens the test split, in the same run folder, so that it goes on from there."""

    name = "tune"
    help = "find each vector's layer and dose on the selection split; --save keeps them as a model config"
    on_ranks = True

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """The recipe's, and the name to keep what is found under."""
        super().add_options(parser)
        parser.add_argument("--save", metavar="NAME", help="keep it as a model config: MODEL=NAME then needs no search")

    def run(self, options: Namespace) -> int:
        """Check everything, the name too; then search."""
        from caa_bench.models.saving import free_name

        if options.save:
            free_name(options.save)
        if options.dry_run or rank_of_process():
            return super().run(options)
        made = benchmarks(options)
        quiet_libraries(options)
        with self.together(made):
            status = self.work(made)
        if options.save:
            _save(options.save, made)
        return status

    def work(self, made: Sequence[Benchmark]) -> int:
        """Exit 1 if a vector could not be fitted; that nothing worked is a finding, not an error."""
        from caa_bench.runs.tuning_record import tuning_lines

        for benchmark in made:
            record = benchmark.tune().tuning
            said = tuning_lines(record) or ["Nothing is left open to search for (tune=layers searches all the same)."]
            print(f"{benchmark.behavior.id} on {benchmark.chat.name}, in {benchmark.folder}")
            for line in said:
                print(f"  {terminal_safe(line)}")
            for label, why in benchmark.fits.unfit.items():
                print(f"  {label} could not be fitted ({terminal_safe(why)})")
        return 1 if any(benchmark.fits.unfit for benchmark in made) else 0


def _save(name: str, made: Sequence[Benchmark]) -> None:
    """Keep what worked.

    Raises:
        UserError: nothing did, or the config cannot be written.
    """
    from caa_bench.models.loading import tuned_key
    from caa_bench.models.saving import Found, save_tuned

    found = {}
    for benchmark in made:
        for label, arm in benchmark.tuning.get("arms", {}).items():
            line = arm["chosen"]
            if arm["worked"] and line["layer"] is not None:
                found[tuned_key(label, benchmark.behavior.id)] = Found(
                    layer=line["layer"],
                    multiplier=line["multiplier"],
                    effect=line["effect"],
                    says=_says(line, data=benchmark.args.data),
                )
    if not found:
        raise UserError(f"tune: nothing that worked was found, so there is nothing to keep as {name!r}")
    print(f"model={name} now takes these: {save_tuned(name, made[0].chat.loading, found)}")


def _says(line: Mapping[str, Any], *, data: str) -> str:
    dose = "" if line["dose"] is None else f", {line['dose']:.2g} of the residual norm"
    return f"{line['effect']:+.2f} log-odds on {line['n']} items of {data} data{dose}"
