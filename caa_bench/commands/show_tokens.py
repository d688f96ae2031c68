"""`show-tokens`: a training pair, a test item and an open question as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.commands.base import RecipeCommand
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.benchmark import Benchmark
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Prompt


class ShowTokens(RecipeCommand):
    """Shows prompts token by token; loads the tokenizer and no weights."""

    name = "show-tokens"
    help = "what the model reads, token by token, with the steered tokens marked"

    def work(self, made: Sequence[Benchmark]) -> int:
        """Print them, a block a behavior."""
        print("\n\n".join(map(tokens_text, made)))
        return 0


def tokens_text(benchmark: Benchmark) -> str:
    """The first training pair and the first test item, the latter under every base; then what a loss and an answer in
    words read and steer, and what the template adds by itself.

    Raises:
        UserError: the tokenizer cannot be had, or the answers differ in more than a letter.
    """
    from caa_bench.behaviors.behavior import variants
    from caa_bench.models.prompts import answered_prompt, chat_prompt, choice_prompt

    chat, pair = benchmark.chat, benchmark.behavior.pairs()[0]
    tokenizer, learned = chat.tokenizer, [{"role": "user", "content": pair.question}]
    asked = variants(benchmark.behavior.test[0], protocol=benchmark.args.protocol)[0]
    blocks = [
        _block(
            chat,
            f"training pair {pair.id}: the vector is read at the letter that comes next",
            choice_prompt(tokenizer, learned, (pair.matching[1:-1], pair.other[1:-1])),
        )
    ]
    for base in benchmark.bases:
        messages = base.rewrite([{"role": "user", "content": asked.question}])
        title = f"test item {asked.item} under {base.label}: the answer is read after the last token"
        blocks.append(_block(chat, title, choice_prompt(tokenizer, messages, asked.letters)))
    loss = f"training pair {pair.id} with its answer: a loss, or a perplexity, counts the tokens of the answer"
    blocks.append(_block(chat, loss, answered_prompt(tokenizer, learned, pair.matching)))
    for question in benchmark.behavior.open_ended[:1]:
        title = f"open question {question.id}: the model's own words begin after the last token"
        blocks.append(_block(chat, title, chat_prompt(tokenizer, [{"role": "user", "content": question.question}])))
    notes = [terminal_safe(line) for line in chat.template_notes().lines()]
    head = f"{benchmark.behavior.title} on {chat.name}; «token» is steered"
    return "\n\n".join([head, *blocks, *(["\n".join(notes)] if notes else [])])


def _block(chat: ChatModel, title: str, prompt: Prompt) -> str:
    from caa_bench.models.prompts import show_tokens

    return "\n".join(
        [title, *(f"  {terminal_safe(line)}" for line in show_tokens(chat.tokenizer, prompt).splitlines())]
    )
