"""A conversation as the chat template writes it: the same text on every day and machine. Knows nothing of tokens' ids.

Two things stand between a template and that promise. One that asks for the date (`strftime_now`) gets CLOCK; one that
draws at random is refused. And what looks like a control token inside the words of a conversation is marked with GUARD,
so that `prompts.encode` keeps it text: unmarked, `<|im_end|>` in a question would end the turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.models.control_tokens import GUARD, guarded
from caa_bench.models.virtual_tokens import ROLE, marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# {"role": "system" | "user" | "assistant", "content": str}; a system message may carry "layout" (see LAYOUTS). One of
# role "virtual" is no turn (see virtual_tokens).
Message = Mapping[str, str]

# Where a system message goes. template: the chat template's own system role; where it has none (Gemma 2, some Mistral),
# as `user`. paper: `<<SYS>>` before the first `[INST]`, right behind BOS, as in the CAA code (Meta's own layout nests
# it inside). user: in front of the first user turn.
LAYOUTS = ("template", "paper", "user")

CLOCK = datetime(2024, 7, 26, 12, tzinfo=UTC)
"""The moment that templates are told: Llama 3's own date where it knows none, so that both ways agree."""

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

# What strftime writes, for the directives that templates use, in English whatever the machine's language. transformers
# hands a template plain values alone, so the clock is a macro, which wins over the function of the same name.
_TIMES = {
    "%-d": str(CLOCK.day), "%-m": str(CLOCK.month), "%e": f"{CLOCK.day:>2}", "%d": f"{CLOCK:%d}", "%m": f"{CLOCK:%m}",
    "%y": f"{CLOCK:%y}", "%Y": f"{CLOCK:%Y}", "%B": "July", "%b": "Jul", "%A": "Friday", "%a": "Fri",
    "%j": f"{CLOCK:%j}",
    "%H": "12", "%I": "12", "%p": "PM", "%M": "00", "%S": "00", "%f": "000000", "%Z": "UTC", "%z": "+0000",
    "%F": f"{CLOCK:%Y-%m-%d}", "%T": "12:00:00", "%x": f"{CLOCK:%m/%d/%y}", "%X": "12:00:00",
    "%c": "Fri Jul 26 12:00:00 2024", "%s": str(int(CLOCK.timestamp())),
    "%-H": "12", "%-I": "12", "%-M": "0", "%-S": "0", "%-y": "24", "%-j": f"{CLOCK.timetuple().tm_yday}", "%h": "Jul",
    "%u": "5", "%w": "5", "%U": "29", "%W": "30", "%V": "30", "%G": "2024", "%D": "07/26/24", "%R": "12:00",
}  # fmt: skip
_PINNED = (
    "{%- macro strftime_now(format) -%}{%- set pinned = namespace(text=format) -%}"
    "{%- for directive, written in pinned_clock.items() -%}"
    "{%- set pinned.text = pinned.text | replace(directive, written) -%}{%- endfor -%}"
    "{{- pinned.text -}}{%- endmacro -%}"
)


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: str | None = None) -> str:
    """The conversation as the template writes it: up to where the model speaks, or to the end of `answer`.

    Virtual tokens come before everything. Control tokens inside what is said carry GUARD. A system message that the
    template refuses or leaves out goes in front of the user's words.

    Raises:
        UserError: no chat template, one that refuses the conversation, leaves the user's words out or draws at random,
            or `layout: paper` on one that writes no `[INST]`.
    """
    front, turns = marks(messages), [message for message in messages if message["role"] != ROLE]
    said = [{**message, "content": guarded(tokenizer, message["content"])} for message in turns]
    answer = None if answer is None else guarded(tokenizer, answer)
    text = _with_system(tokenizer, said, answer)
    if lost := next((m["content"] for m in said if m["role"] == "user" and m["content"].strip() not in text), None):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template leaves out or changes what the user says "
            f"({lost.strip().replace(GUARD, '')[:60]!r}); use a plainer template, or loading.template=caa_base"
        )
    papers = [message["content"] for message in said if _layout(message) == "paper"]
    if papers and "[INST]" not in apply_chat_template(tokenizer, [{"role": "user", "content": "?"}], prompt=True):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template writes no [INST], which layout: paper puts the "
            "system text in front of; set system_prompt.layout=template"
        )
    bos = leading_bos(tokenizer, text)
    return front + bos + "".join(f"<<SYS>>\n{content}\n<</SYS>>\n\n" for content in papers) + text[len(bos) :]


def leading_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The beginning token where the text opens with it, else nothing."""
    bos = tokenizer.bos_token
    return str(bos) if bos and text.startswith(str(bos)) else ""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template's source.

    Raises:
        UserError: the tokenizer has none, or it draws at random.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: it has no chat template; "
            f"set loading.template={' or '.join(TEMPLATES)}, or name it in the model's config"
        )
    try:
        source = str(tokenizer.get_chat_template())
    except ValueError:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: it has several chat templates and none is the default; "
            f"leave one in its folder, or set loading.template={' or '.join(TEMPLATES)}"
        ) from None
    if (random := _random_part(source)) is not None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r}: its chat template draws at random ({random}), so that no prompt is "
            "the same twice; use a template without it"
        )
    return source


def tells_the_time(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template asks for the date or the time, and so gets CLOCK."""
    return "strftime_now" in template_of(tokenizer)


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


def apply_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, str]],
    *,
    prompt: bool = False,
    unfinished: bool = False,
) -> str:
    """transformers' `apply_chat_template` as text, at CLOCK and without thinking.

    Args:
        prompt: with what the template writes where the model is to speak.
        unfinished: nothing behind the last message.

    Raises:
        UserError: the template refuses the conversation, or fails on it.
    """
    from jinja2.exceptions import TemplateError

    source = template_of(tokenizer)
    pinned = {"chat_template": _PINNED + source, "pinned_clock": _TIMES} if "strftime_now" in source else {}
    where = {"add_generation_prompt": prompt, "continue_final_message": unfinished}
    try:
        # Templates that know `enable_thinking` (Qwen 3) then put the same empty thought into prompt and answer.
        text = tokenizer.apply_chat_template(list(turns), tokenize=False, enable_thinking=False, **where, **pinned)
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        said = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: its chat template says: {said}") from error
    return str(text)


def _with_system(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str | None) -> str:
    turns = _turns(messages)
    systems = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if not systems:
        return _written(tokenizer, turns, answer)
    in_front = [{**m, "layout": "user"} if _layout(m) == "template" else m for m in messages]
    try:
        text = _written(tokenizer, turns, answer)
    except UserError:
        return _with_system(tokenizer, in_front, answer)
    # the user may say the same words, so that one place for both means that the system's are left out
    said = "\n".join([*(turn["content"] for turn in turns if turn["role"] != "system"), answer or ""])
    if all(text.count(system) > said.count(system) for system in systems if system):
        return text
    return _with_system(tokenizer, in_front, answer)


def _written(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], answer: str | None) -> str:
    if answer is None:
        return apply_chat_template(tokenizer, turns, prompt=True)
    return apply_chat_template(tokenizer, [*turns, {"role": "assistant", "content": answer}], unfinished=True)


def _layout(message: Message) -> str:
    return message.get("layout", "template") if message["role"] == "system" else ""


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """What the template itself gets to see: no `paper` system message, `user` ones in front of the first user turn."""
    front = "".join(f"{m['content']}\n\n" for m in messages if _layout(m) == "user" and m["content"])
    turns = []
    for message in messages:
        if _layout(message) in ("paper", "user"):
            continue
        content = message["content"]
        if message["role"] == "user":
            content, front = front + content, ""
        turns.append({"role": message["role"], "content": content})
    return turns


@lru_cache(maxsize=64)
def _random_part(source: str) -> str | None:
    """What in a template's source draws at random: the filter `random` or the function `lipsum`."""
    from jinja2 import Environment, nodes
    from jinja2.exceptions import TemplateError

    source = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", source)  # transformers' own tag, which jinja has not
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)  # noqa: S701 - parsed, never rendered
    except TemplateError:  # a mistake that transformers will name
        return None
    if any(one.name == "random" for one in tree.find_all(nodes.Filter)):
        return "the filter `random`"
    return "`lipsum`" if any(one.name == "lipsum" for one in tree.find_all(nodes.Name)) else None
