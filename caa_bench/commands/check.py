"""`check`: recipe, data and names, no model loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Check(RecipeCommand):
    """Making the benchmarks is the check."""

    name = "check"
    help = "check a recipe without loading the model"

    def work(self, made: Sequence[Benchmark]) -> int:
        """Say that all is well and where results will go."""
        for benchmark in made:
            print(f"{benchmark.behavior.id} on {benchmark.chat.name} is fine; results go to {benchmark.folder}")
        return 0
