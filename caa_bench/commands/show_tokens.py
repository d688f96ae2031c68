"""`show-tokens`: a training pair and a test item as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.interventions import Intervention


class ShowTokens(RecipeCommand):
    """Shows prompts token by token; loads the tokenizer and no weights."""

    name = "show-tokens"
    help = "what the model reads, token by token, with the steered tokens marked"

    def work(self, made: Sequence[Benchmark]) -> int:
        """Print them, a block a behavior."""
        print("\n\n".join(map(tokens_text, made)))
        return 0


def tokens_text(benchmark: Benchmark) -> str:
    """The first training pair and the first test item, the latter under every base.

    Raises:
        UserError: the tokenizer cannot be had, or the answers differ in more than a letter.
    """
    from caa_bench.behaviors.behavior import variants

    pair = benchmark.behavior.pairs()[0]
    lines = [f"{benchmark.behavior.title} on {benchmark.chat.name}; «token» is steered"]
    lines += _prompt(
        benchmark,
        f"training pair {pair.id}: the vector is read at the letter that comes next",
        question=pair.question,
        letters=(pair.matching[1:-1], pair.other[1:-1]),
    )
    asked = variants(benchmark.behavior.test[0], protocol=benchmark.args.protocol)[0]
    for base in benchmark.bases:
        title = f"test item {asked.item} under {base.label}: the answer is read after the last token"
        lines += _prompt(benchmark, title, question=asked.question, letters=asked.letters, base=base)
    return "\n".join(lines)


def _prompt(
    benchmark: Benchmark, title: str, *, question: str, letters: Sequence[str], base: Intervention | None = None
) -> list[str]:
    from caa_bench.models.prompts import choice_prompt, show_tokens

    messages = [{"role": "user", "content": question}]
    rewritten = messages if base is None else base.rewrite(messages)
    prompt = choice_prompt(benchmark.chat.tokenizer, rewritten, letters)
    shown = show_tokens(benchmark.chat.tokenizer, prompt).splitlines()
    return ["", title, *(f"  {terminal_safe(line)}" for line in shown)]
