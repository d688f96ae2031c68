"""Messages -> token ids, the first steered position, the answer tokens. Knows nothing of models or behaviors.

Every position here is ABSOLUTE: an index into one unpadded prompt. Shapes: T tokens of a prompt, K options.
What the template writes is `templates.py`, and where its instruction ends `turns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.models.control_tokens import GUARD, split_ids
from caa_bench.models.templates import Message as Message
from caa_bench.models.templates import leading_bos, rendered
from caa_bench.models.turns import AnsweredText, answer_form, answered_text
from caa_bench.models.virtual_tokens import VirtualToken, owners, virtual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


@dataclass(frozen=True, kw_only=True)
class AnsweredPrompt(Prompt):
    """Prompt and answer in one, for teacher forcing.

    Args:
        answer_position: absolute index of the answer's first token (with the blank in front of it). What stands between
            the instruction and the answer (an empty thought, a channel's marker) is steered and is no part of it.
    """

    answer_position: int


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Rendered text -> token ids, with exactly the special tokens that stand in the text (never a second BOS). [T]

    A leading BOS is split off first: SentencePiece puts its dummy space in front of a text, and transformers 5 loses it
    behind a special token, so that `<s>[INST]` would begin with `[` (29961) where Llama 2 was trained on `▁[` (518).
    Virtual tokens at the front (`virtual_tokens.marks`) come first and take no part in that.

    Raises:
        UserError: a control token that is text, marked by GUARD, cannot be kept text.
    """
    names, text = owners(text)
    virtual = virtual_tokens(names, tokenizer("x", add_special_tokens=False)["input_ids"][-1]) if names else ()
    bos = leading_bos(tokenizer, text)
    rest = text[len(bos) :]
    ids = split_ids(tokenizer, rest) if GUARD in rest else tokenizer(rest, add_special_tokens=False)["input_ids"]
    return virtual + ((tokenizer.bos_token_id,) if bos else ()) + tuple(ids)


def encode_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """The instruction's token ids: up to where the model speaks, without the header of an answer. [T]"""
    return encode(tokenizer, rendered(tokenizer, messages))


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Prompt:
    """The prompt that a model answers in its own words, the header of an answer included.

    The first steered token is the instruction's last one, as in `choice_prompt`; where there is no header, that is the
    prompt's last.
    """
    instruction = rendered(tokenizer, messages)
    ids = encode(tokenizer, instruction)
    if not (lead := answer_form(tokenizer).lead):
        return Prompt(ids=ids, first_position=len(ids) - 1)
    whole = encode(tokenizer, instruction + lead)
    return Prompt(ids=whole, first_position=_first_position(ids, whole))


def thinking_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Prompt:
    """The prompt of a template that opens a thought, up to where the model thinks (`AnswerForm.opens_thought`)."""
    ids = encode(tokenizer, rendered(tokenizer, messages))
    return Prompt(ids=ids, first_position=len(ids) - 1)


def after_thought(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, thought: Sequence[int]) -> Prompt:
    """A thinking prompt with its thought, and what ends it; steered from the same token on."""
    ends = encode(tokenizer, answer_form(tokenizer).lead)
    return Prompt(ids=(*prompt.ids, *thought, *ends), first_position=prompt.first_position)


def answered_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> AnsweredPrompt:
    """Prompt and answer in one, for teacher forcing: `ids[answer_position:]` is the answer (and its leading space).

    Where the end of the instruction merges with the answer into one token, that token is the first position.
    """
    text = answered_text(tokenizer, messages, answer)
    ids = encode(tokenizer, text.whole)
    first = _instruction_end(tokenizer, text, ids)
    begins = first + 1
    if text.lead:
        begins = _first_position(encode(tokenizer, text.instruction + text.lead), ids) + 1
    return AnsweredPrompt(ids=ids, first_position=first, answer_position=begins)


def prompt_and_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str
) -> tuple[Prompt, tuple[int, ...]]:
    """`answered_prompt` in its two parts: up to right before the answer, and the answer's tokens."""
    whole = answered_prompt(tokenizer, messages, answer)
    end = whole.answer_position
    return Prompt(ids=whole.ids[:end], first_position=whole.first_position), whole.ids[end:]


def choice_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], letters: Sequence[str]
) -> ChoicePrompt:
    """The prompt up to right before the answer letter, for the answers "(A)", "(B)", ...

    Args:
        letters: the option letters, two or more. [K]

    Raises:
        UserError: the answers do not differ in exactly one known token (a letter is missing from the vocabulary, or
            is one token with its parenthesis where another letter is two).
    """
    texts = [answered_text(tokenizer, messages, f"({letter})") for letter in letters]
    answers = [encode(tokenizer, text.whole) for text in texts]
    split = min(_common(answers[0], other) for other in answers[1:])
    candidates = tuple(ids[split] for ids in answers if len(ids) > split)
    alike = len(set(candidates)) < len(letters) or len({ids[split + 1 :] for ids in answers}) > 1
    if alike or tokenizer.unk_token_id in candidates:
        shown = ", ".join(f"({letter})" for letter in letters)
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: the answers {shown} do not differ in exactly one token of its "
            "vocabulary, so their probabilities cannot be read; use another model, or items with fewer options"
        )
    return ChoicePrompt(
        ids=answers[0][:split],
        first_position=_instruction_end(tokenizer, texts[0], answers[0]),
        candidates=candidates,
    )


def show_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt token by token, the steered ones marked as `«token»`, then these and the answer's tokens with ids."""
    written = tokenizer.convert_ids_to_tokens(list(prompt.ids))
    tokens = [
        str(one) if isinstance(one, VirtualToken) else _shown(token)
        for one, token in zip(prompt.ids, written, strict=True)
    ]
    first = prompt.first_position
    steered = [f"{i} '{token}'" for i, token in zip(prompt.ids[first:], tokens[first:], strict=True)]
    lines = [
        " ".join([*tokens[:first], *(f"«{token}»" for token in tokens[first:])]),
        f"steered from position {first} of {len(tokens)} on: {', '.join(steered)}",
    ]
    if isinstance(prompt, ChoicePrompt):
        names = tokenizer.convert_ids_to_tokens(list(prompt.candidates))
        lines.append("answers: " + ", ".join(f"{i} {name!r}" for i, name in zip(prompt.candidates, names, strict=True)))
    if isinstance(prompt, AnsweredPrompt):
        begins = prompt.answer_position
        said = [f"{i} '{token}'" for i, token in zip(prompt.ids[begins:], tokens[begins:], strict=True)]
        lines.append(f"measured from position {begins} on: {', '.join(said)}")
    return "\n".join(lines)


def _shown(token: str) -> str:
    """A token on one line: some vocabularies hold the line break itself."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in token)


def _instruction_end(tokenizer: PreTrainedTokenizerBase, text: AnsweredText, ids: Sequence[int]) -> int:
    """The first steered position of an answered text with these ids."""
    return _first_position(encode(tokenizer, text.instruction), ids)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _first_position(instruction: Sequence[int], full: Sequence[int]) -> int:
    """The last token of the instruction, or the token that it merges into with what follows."""
    common = _common(instruction, full)
    return common - 1 if common == len(instruction) else common
