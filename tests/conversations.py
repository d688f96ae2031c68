"""A conversation as the text that a tokenizer's template makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caa_bench.models.control_tokens import GUARD
from caa_bench.models.templates import Message, rendered
from caa_bench.models.turns import answered_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def conversation_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: str | None = None
) -> str:
    """Up to where the model speaks, or to the end of `answer`, with nothing behind it."""
    text = rendered(tokenizer, messages) if answer is None else answered_text(tokenizer, messages, answer).whole
    return text.replace(GUARD, "")
