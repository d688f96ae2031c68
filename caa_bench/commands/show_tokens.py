"""`show-tokens`: a training pair and a test item as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark


class ShowTokens(RecipeCommand):
    """Loads the tokenizer alone."""

    name = "show-tokens"
    help = "what the model reads, token by token, with the steered tokens marked"

    def work(self, made: Sequence[Benchmark]) -> int:
        """Print them, a block a behavior."""
        from caa_bench.token_view import render

        print("\n\n".join(map(render, made)))
        return 0
