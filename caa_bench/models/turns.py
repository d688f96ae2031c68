"""Where the instruction ends and the answer begins: one rule a chat template, tried once before any weights load.

    answered = instruction + header + answer + end

- instruction: what the template writes where the model is to speak, up to and with its generation prompt.
- header: what an answered turn has in front of the answer and the instruction does not: the rest of an empty thought
  where the prompt opens one, a channel's marker, the whole opening of the turn where a template has no generation
  prompt. Empty for most. It is no part of the answer: loss and perplexity skip it, and words begin behind it.
- A blank alone is no header: it belongs to the answer, as in Llama 2's ` (`.
- end: what the template writes behind an answer; its first control token ends generation.

Steering begins at the instruction's last token everywhere, the header included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from caa_bench.errors import UserError
from caa_bench.models.control_tokens import control_tokens
from caa_bench.models.templates import Message, apply_chat_template, rendered, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_QUESTION = "Is this a question? (A) Yes (B) No"
PROBE_ANSWERS = ("(A)", "No words at all.")
_OPEN, _CLOSE = "<think>", "</think>"
THOUGHT_ENDS = _CLOSE
_EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
_ADDRESS = re.compile(r"\w+ at 0x[0-9a-f]{6,}>")
_forms: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, AnswerForm]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How one template's answered turn differs from its prompt.

    Args:
        cut: what the prompt ends with and an answered turn has not ("<think>\\n" of R1).
        skip: what an answered turn has in its place, in front of the answer.
        header: what stands between the prompt and the answer here.
        end: what the template writes behind the answer.
    """

    cut: str
    skip: str
    header: str
    end: str

    @property
    def lead(self) -> str:
        """The header that words begin behind: without the blanks that belong to the answer."""
        return self.header.rstrip(" ") if self.header.strip() else ""

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt leaves a thought open, which the header ends."""
        return _CLOSE in self.header and _OPEN not in self.header


@dataclass(frozen=True, kw_only=True)
class AnsweredText:
    """An answered conversation as text, in parts that follow one another.

    Args:
        instruction: up to where the model speaks.
        lead: the header without the blanks that belong to the answer.
        answer: the answer, with the blank that the template puts in front of it.
    """

    instruction: str
    lead: str
    answer: str

    @property
    def whole(self) -> str:
        """Instruction, lead and answer together."""
        return self.instruction + self.lead + self.answer


def answer_form(tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
    """The tokenizer's form, found once a template by rendering probes.

    Raises:
        UserError: it has no chat template, or answered turns and prompts differ in a way that has no name here.
    """
    source = template_of(tokenizer)
    if (known := _forms.get(tokenizer)) is None or known[0] != source:
        known = _forms[tokenizer] = (source, _form(tokenizer))
    return known[1]


def answered_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> AnsweredText:
    """The conversation with its answer, nothing behind it.

    Raises:
        UserError: the template refuses the conversation, or writes it in another form than its probes.
    """
    form = answer_form(tokenizer)
    instruction = rendered(tokenizer, messages)
    turn = rendered(tokenizer, messages, answer=answer)
    before = instruction.removesuffix(form.cut) + form.skip
    if not instruction.endswith(form.cut) or not turn.startswith(before):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template writes the answered turn {turn[-60:]!r} in "
            "another way than the others, so that nothing says where the answer begins; use a plainer template"
        )
    said = turn[len(before) :]
    blanks = form.header[len(form.lead) :]
    return AnsweredText(instruction=instruction, lead=form.lead, answer=blanks + said)


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The control token that the template writes right behind an answer; none where it writes words or nothing."""
    end = answer_form(tokenizer).end.lstrip()
    first = next((token for token in control_tokens(tokenizer) if end.startswith(token)), None)
    return [] if first is None else [int(tokenizer.convert_tokens_to_ids(first))]


def _form(tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
    asked = [{"role": "user", "content": PROBE_QUESTION}]
    prompt = apply_chat_template(tokenizer, asked, prompt=True)
    if address := _ADDRESS.search(prompt):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template writes {address[0]!r}, which is another in "
            "each process; use a template without it"
        )
    forms = set()
    for answer in PROBE_ANSWERS:
        turns = [*asked, {"role": "assistant", "content": answer}]
        turn, closed = apply_chat_template(tokenizer, turns, unfinished=True), apply_chat_template(tokenizer, turns)
        if not turn.endswith(answer):
            raise _unknown(tokenizer, f"writes the answer {answer!r} as {turn[-40:]!r}")
        before = turn[: -len(answer)]
        shared = _common(prompt, before)
        cut, skip = prompt[shared:], before[shared:]
        end = closed[len(turn) :] if closed.startswith(turn) else ""
        forms.add(AnswerForm(cut=cut, skip=skip, header=_header(tokenizer, prompt, cut, skip), end=end))
    if len(forms) > 1:
        raise _unknown(tokenizer, f"opens the turns of {PROBE_ANSWERS[0]!r} and {PROBE_ANSWERS[1]!r} differently")
    return forms.pop()


def _header(tokenizer: PreTrainedTokenizerBase, prompt: str, cut: str, skip: str) -> str:
    """What stands between the prompt and an answer.

    Raises:
        UserError: the prompt goes another way than an answered turn, and not into a thought.
    """
    opened = prompt + (skip if not cut else "")
    if not cut and opened.rfind(_OPEN) <= opened.rfind(_CLOSE):
        return skip
    if opened.rfind(_OPEN) > opened.rfind(_CLOSE):
        # The prompt opens a thought that answered turns have not: it is closed at once, as Qwen 3 closes its empty one.
        return ("" if prompt.endswith("\n") else "\n") + f"\n{_CLOSE}\n\n"
    if not skip.strip() and (not cut.strip() or _EMPTY_THOUGHT.fullmatch(cut)):
        return ""  # a blank, or an empty thought that only the prompt has: the answer follows it
    raise _unknown(tokenizer, f"opens a turn with {cut!r} where it asks, and with {skip!r} where it shows an answer")


def _unknown(tokenizer: PreTrainedTokenizerBase, what: str) -> UserError:
    return UserError(
        f"tokenizer {tokenizer.name_or_path!r}: its chat template {what}, so that nothing says where an answer begins; "
        "use a model with a plainer template, or loading.template=caa_base"
    )


def _common(one: str, other: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
