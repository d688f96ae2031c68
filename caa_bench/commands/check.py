"""`check`: recipe, data and names, no model loaded."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.commands.base import RecipeCommand, benchmarks

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class Check(RecipeCommand):
    """Making the benchmarks is the check."""

    name = "check"
    help = "check a recipe without loading the model"

    def add_options(self, parser: ArgumentParser) -> None:
        """A recipe's options, and the form of the answer."""
        super().add_options(parser)
        parser.add_argument("--json", action="store_true", help="a JSON list, an object a behavior")

    def run(self, options: Namespace) -> int:
        """Check everything; a JSON list where that is asked for."""
        if options.dry_run or not options.json:
            return super().run(options)
        print(json.dumps([facts(one) for one in benchmarks(options)], indent=1, ensure_ascii=False))
        return 0

    def work(self, made: Sequence[Benchmark]) -> int:
        """Say that all is well and where results will go."""
        for benchmark in made:
            print(f"{benchmark.behavior.id} on {benchmark.chat.name} is fine; results go to {benchmark.folder}")
        return 0


def facts(benchmark: Benchmark) -> dict[str, Any]:
    """What would be run."""
    behavior = benchmark.behavior
    return {
        "behavior": behavior.id,
        "model": benchmark.chat.name,
        "folder": str(benchmark.folder),
        "split": benchmark.args.split,
        "items": {split: len(getattr(behavior, split)) for split in ("train", "selection", "test")},
        "bases": [base.label for base in benchmark.bases],
        "vectors": list(dict.fromkeys(vector.label for vector in benchmark.vectors)),
        "evaluators": [evaluator.name for evaluator in benchmark.evaluators],
    }
