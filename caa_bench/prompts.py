"""Messages -> token ids, the first steered position, the answer tokens. Knows nothing of models or behaviors.

Every position here is ABSOLUTE: an index into one unpadded prompt. Shapes: T tokens of a prompt, K options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# {"role": "system" | "user" | "assistant", "content": str}; a system message may carry "layout" (see SystemPrompt).
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One tokenized, unpadded prompt.

    Args:
        ids: token ids, BOS included where the template has one. [T]
        first_position: absolute index of the last token of the instruction (Llama 2: the `]` of ` [/INST]`),
            the first one that CAA steers (inclusive). Everything before it is the shareable prefix.
    """

    ids: tuple[int, ...]
    first_position: int


@dataclass(frozen=True, kw_only=True)
class ChoicePrompt(Prompt):
    """A prompt that ends right before the answer letter, and the tokens that would say each letter.

    Args:
        candidates: token id of each option's letter, in the order of the options. [K]
            Found by comparing the token sequences of the whole answers, never by a fixed index: `(A` is two tokens
            for Llama 2 (the prompt then ends ` (`) and one for Llama 3 (the prompt then ends at the instruction).
    """

    candidates: tuple[int, ...]
