"""`compare` and `sweep`: fit, measure, report."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand
from caa_bench.errors import UserError

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.runs.replicas import Replicas


class Compare(RecipeCommand):
    """One behavior, or all of them one after another and side by side at the end."""

    name = "compare"
    help = "measure CAA on top of every base and print how they stack"

    on_ranks = True
    _copies, _quiet = 1, False

    def add_options(self, parser: ArgumentParser) -> None:
        """The recipe, and how many copies of the model share the work."""
        super().add_options(parser)
        parser.add_argument(
            "--replicas",
            type=int,
            default=1,
            metavar="N",
            help="copies of the model that share the batches, one a GPU; the rows are the same (%(default)s)",
        )

    def run(self, options: Namespace) -> int:
        """Check everything; then do it, or list what it would cost."""
        if options.replicas < 1:
            raise UserError(f"--replicas: {options.replicas} given; give 1 or more")
        self._copies, self._quiet = options.replicas, options.quiet
        return super().run(options)

    def work(self, made: Sequence[Benchmark]) -> int:
        """Exit 1 if a batch or a fit failed."""
        from caa_bench.commands.terminal import columns
        from caa_bench.report.comparison import render_summary
        from caa_bench.report.text import columns_of

        if not self._quiet and self._copies == 1:
            say_time(made)
        with self._replicas(made[0]) as replicas:
            for benchmark in made if replicas is not None else ():
                benchmark.replicas = replicas
            reports = [benchmark.compare().report() for benchmark in made]
        if len(reports) > 1:
            with columns_of(columns()):
                print(f"\n{render_summary(reports)}\n")
            print("\n".join(f"open {report.folder / 'report.html'}" for report in reports))
        return 1 if any(report.record.status == "error" for report in reports) else 0

    def _replicas(self, first: Benchmark) -> AbstractContextManager[Replicas | None]:
        """The copies of the model that all benchmarks share; this process keeps to the first GPU then."""
        if self._copies == 1:
            return nullcontext()
        if first.chat.loading.parallel != "none":
            raise UserError("--replicas: a model in slices (loading.parallel) has no copies; leave one of them out")
        from caa_bench.commands.launch_local import visible_gpus
        from caa_bench.runs.replicas import Replicas

        gpus = visible_gpus()
        replicas = Replicas(first.chat, count=self._copies, gpus=gpus, plugins=first.args.plugins)
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
        return replicas


def say_time(made: Sequence[Benchmark]) -> None:
    """On stderr, how long all of it takes on this machine's CPU; nothing on a GPU, or for less than a minute.

    The bars say only how long their own part takes: a fit, a search, the measuring.
    """
    import torch

    from caa_bench.commands.dry_run import estimated_time
    from caa_bench.commands.run_time import in_words, together

    on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if on_gpu or made[0].chat.embedded or made[0].chat.loading.parallel != "none":
        return
    times = [estimated_time(benchmark) for benchmark in made]
    time = together([one for one in times if one is not None])
    if None in times or time.total_s < 60:
        return
    print(f"about {in_words(time.total_s)} in all ({time.parts}), less what is kept from before", file=sys.stderr)


class Sweep(Compare):
    """The same with another recipe."""

    name = "sweep"
    help = "measure every layer on the selection split"
    recipe = "layer_sweep"
