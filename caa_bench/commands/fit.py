"""`fit`: train what trains, measure nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Fit(RecipeCommand):
    """Says where the artifacts are."""

    name = "fit"
    help = "fit the interventions and keep their artifacts"
    on_ranks = True

    def work(self, made: Sequence[Benchmark]) -> int:
        """Exit 1 if one could not be fitted."""
        for benchmark in made:
            benchmark.fit()
            print(f"artifacts of {benchmark.behavior.id} are in {benchmark.store.folder}")
        return 1 if any(benchmark.fits.unfit for benchmark in made) else 0
