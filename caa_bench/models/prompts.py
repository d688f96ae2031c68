"""Messages -> token ids, the first steered position, the answer tokens. Knows nothing of models or behaviors.

Every position here is ABSOLUTE: an index into one unpadded prompt. Shapes: T tokens of a prompt, K options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from caa_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# {"role": "system" | "user" | "assistant", "content": str}; a system message may carry "layout" (see LAYOUTS).
Message = Mapping[str, str]

# Where a system message goes. template: the chat template's own system role; where it has none (Gemma 2, some Mistral),
# as `user`. paper: `<<SYS>>` before the first `[INST]`, right behind BOS, as in the CAA code (Meta's own layout nests
# it inside). user: in front of the first user turn.
LAYOUTS = ("template", "paper", "user")

# Plain templates for base models, which have none of their own. The generation prompt of `caa_base` ends at the colon:
# with the space behind it, the prompt would not be a prefix of prompt + answer, as the space belongs to the answer.
TEMPLATES = {
    "caa_base": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'assistant' %}{{ '\\nResponse: ' + m['content'] | trim }}"
        "{% else %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ ('Input: ' if m['role'] == 'user' else '') + m['content'] | trim }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\\nResponse:' }}{% endif %}"
    ),
}


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


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: str | None = None) -> str:
    """The conversation as text: up to where the model speaks, or to the end of `answer`, with nothing behind it.

    Raises:
        UserError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    paper = "".join(_paper_system(m["content"]) for m in messages if _layout(m) == "paper")
    text = _rendered(tokenizer, messages, answer)
    bos = _leading_bos(tokenizer, text)
    return bos + paper + text[len(bos) :]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Rendered text -> token ids, with exactly the special tokens that stand in the text (never a second BOS). [T]

    A leading BOS is split off first: SentencePiece puts its dummy space in front of a text, and transformers 5 loses it
    behind a special token, so that `<s>[INST]` would begin with `[` (29961) where Llama 2 was trained on `▁[` (518).
    """
    bos = _leading_bos(tokenizer, text)
    ids = tokenizer(text[len(bos) :], add_special_tokens=False)["input_ids"]
    return ((tokenizer.bos_token_id,) if bos else ()) + tuple(ids)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Prompt:
    """The prompt that a model answers in its own words; its last token is the first steered one."""
    ids = encode(tokenizer, render(tokenizer, messages))
    return Prompt(ids=ids, first_position=len(ids) - 1)


def answered_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> Prompt:
    """Prompt and answer in one, for teacher forcing: `ids[first_position + 1:]` is the answer (and its leading space).

    Where the end of the instruction merges with the answer into one token, that token is the first position.
    """
    ids = encode(tokenizer, render(tokenizer, messages, answer=answer))
    return Prompt(ids=ids, first_position=_first_position(encode(tokenizer, render(tokenizer, messages)), ids))


def prompt_and_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str
) -> tuple[Prompt, tuple[int, ...]]:
    """`answered_prompt` in its two parts: up to the first steered token, and the answer's tokens."""
    whole = answered_prompt(tokenizer, messages, answer)
    end = whole.first_position + 1
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
    answers = [encode(tokenizer, render(tokenizer, messages, answer=f"({letter})")) for letter in letters]
    split = min(_common(answers[0], other) for other in answers[1:])
    candidates = tuple(ids[split] for ids in answers if len(ids) > split)
    alike = len(set(candidates)) < len(letters) or len({ids[split + 1 :] for ids in answers}) > 1
    if alike or tokenizer.unk_token_id in candidates:
        shown = ", ".join(f"({letter})" for letter in letters)
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: the answers {shown} do not differ in exactly one token of its "
            "vocabulary, so their probabilities cannot be read; use another model, or items with fewer options"
        )
    instruction = encode(tokenizer, render(tokenizer, messages))
    return ChoicePrompt(
        ids=answers[0][:split],
        first_position=_first_position(instruction, answers[0]),
        candidates=candidates,
    )


def apply_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give `tokenizer` the named plain template (TEMPLATES) in place of its chat template.

    Raises:
        UserError: there is no template of that name.
    """
    if name not in TEMPLATES:
        close = get_close_matches(name, TEMPLATES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"template: there is no plain template {name!r}; {hint}valid names: {', '.join(TEMPLATES)}")
    tokenizer.chat_template = TEMPLATES[name]


def show_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt token by token, the steered ones marked as `«token»`, then these and the answer tokens with ids."""
    tokens = tokenizer.convert_ids_to_tokens(list(prompt.ids))
    first = prompt.first_position
    steered = [f"{i} {token!r}" for i, token in zip(prompt.ids[first:], tokens[first:], strict=True)]
    lines = [
        " ".join([*tokens[:first], *(f"«{token}»" for token in tokens[first:])]),
        f"steered from position {first} of {len(tokens)} on: {', '.join(steered)}",
    ]
    if isinstance(prompt, ChoicePrompt):
        names = tokenizer.convert_ids_to_tokens(list(prompt.candidates))
        lines.append("answers: " + ", ".join(f"{i} {name!r}" for i, name in zip(prompt.candidates, names, strict=True)))
    return "\n".join(lines)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str | None) -> str:
    """What the template makes of it; system messages that it refuses or leaves out go in front of the user's words."""
    turns = _turns(messages)
    systems = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if systems:
        in_front = [{**m, "layout": "user"} if m["role"] == "system" and _layout(m) != "paper" else m for m in messages]
        try:
            text = _apply_template(tokenizer, turns, answer)
        except UserError:
            return _rendered(tokenizer, in_front, answer)
        return text if all(system in text for system in systems) else _rendered(tokenizer, in_front, answer)
    return _apply_template(tokenizer, turns, answer)


def _layout(message: Message) -> str:
    return message.get("layout", "template") if message["role"] == "system" else ""


def _paper_system(text: str) -> str:
    return f"<<SYS>>\n{text}\n<</SYS>>\n\n"


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """What the template itself gets to see: no `paper` system message, `user` ones in front of the first user turn."""
    front = "".join(f"{m['content']}\n\n" for m in messages if _layout(m) == "user")
    turns = []
    for message in messages:
        if _layout(message) in ("paper", "user"):
            continue
        content = message["content"]
        if message["role"] == "user":
            content, front = front + content, ""
        turns.append({"role": message["role"], "content": content})
    return turns


def _apply_template(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], answer: str | None) -> str:
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: it has no chat template; "
            f"set loading.template={' or '.join(TEMPLATES)}, or name it in the model's config"
        )
    said = [] if answer is None else [{"role": "assistant", "content": answer}]
    where = {"add_generation_prompt": not said, "continue_final_message": bool(said)}
    try:
        # Templates that know `enable_thinking` (Qwen 3) then put the same empty thought into prompt and answer.
        return str(tokenizer.apply_chat_template([*turns, *said], tokenize=False, enable_thinking=False, **where))
    except TemplateError as error:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template says: {error}") from error


def _leading_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    bos = tokenizer.bos_token
    return bos if bos and text.startswith(bos) else ""


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _first_position(instruction: Sequence[int], full: Sequence[int]) -> int:
    """The last token of the instruction, or the token that it merges into with what follows."""
    common = _common(instruction, full)
    return common - 1 if common == len(instruction) else common
