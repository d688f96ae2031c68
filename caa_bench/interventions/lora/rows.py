"""A contrast pair -> one training row: token ids, and labels that the loss skips up to the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pair

IGNORED = -100  # the label that the loss skips


def training_row(
    tokenizer: PreTrainedTokenizerBase,
    pair: Pair,
    *,
    target: Literal["letter", "letter_and_text", "text"],
    positive: bool,
) -> dict[str, list[int]]:
    """One training row: the token ids, and labels that are IGNORED up to the answer. [T] each, T tokens

    Args:
        target: what the loss sees (see `LoraSFT.Config`).
        positive: whether the matching answer is learned, or the other one.
    """
    from caa_bench.models.prompts import answered_prompt, choice_prompt
    from caa_bench.models.turns import end_tokens

    messages = [{"role": "user", "content": pair.question}]
    learned, other = (pair.matching, pair.other) if positive else (pair.other, pair.matching)
    if target == "letter":
        prompt = choice_prompt(tokenizer, messages, (learned[1:-1], other[1:-1]))
        ids, start = [*prompt.ids, prompt.candidates[0]], len(prompt.ids)
    else:
        text = pair.matching_text if positive else pair.other_text
        said = text if target == "text" else f"{learned} {text}"
        answered = answered_prompt(tokenizer, messages, said)
        ends = end_tokens(tokenizer) or [tokenizer.eos_token_id]
        ids, start = [*answered.ids, *ends], answered.answer_position
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}
