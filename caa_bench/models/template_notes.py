"""What a chat template adds by itself: rendered probes, and what can be read off them. Part of a model's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from caa_bench.errors import UserError
from caa_bench.models.templates import CLOCK, apply_chat_template, rendered, tells_the_time
from caa_bench.models.turns import PROBE_ANSWERS, PROBE_QUESTION, answer_form, answered_text
from caa_bench.storage.files import content_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_SYSTEM = "Here is the system text."
_SHOWN = 200
"""Characters of a default system prompt in a sentence; some are pages about tools."""


@dataclass(frozen=True, kw_only=True)
class TemplateNotes:
    """How one chat template asks.

    Args:
        key: sha256 of the probes as rendered: without a system text, with one, with an empty one, with an answer.
        clock: the date that the template was told, where it asks for one; "" elsewhere.
        plain: the probe's prompt without a system text, the question as `{question}`: all that the base `none` reads.
        default_system: what the template says to the model where no system text is given, and leaves out where one is.
        system_place: where a system text goes: the template's own `system` turn, or in front of the `user`'s words
            where the template has no place for it.
        header: what stands between the prompt and an answer (an empty thought, a channel's marker).
        empty_system: what the template says of its own where the system text is empty; "" for most.
    """

    key: str
    clock: str
    plain: str
    default_system: str
    system_place: Literal["system", "user"]
    header: str
    empty_system: str = ""

    def lines(self) -> list[str]:
        """What a reader should know of it, a sentence each; none for a template that adds nothing."""
        said = []
        if self.default_system:
            shown = self.default_system[:_SHOWN] + ("..." if len(self.default_system) > _SHOWN else "")
            empty = (
                "but an empty one, so that `system_prompt_empty` is the same as `none`"
                if self.empty_system
                else "(`system_prompt_empty` leaves it out)"
            )
            said.append(
                f"The chat template says by itself: {shown!r}; the base `none` includes it, and every "
                f"system prompt replaces it {empty}."
            )
        if self.system_place == "user":
            said.append("The chat template has no place for a system text; it stands in front of the user's words.")
        if self.clock:
            said.append(f"The chat template knows the date; it was told {self.clock} in every prompt.")
        if self.header.strip():
            said.append(f"In front of every answer stands {self.header.strip()!r}, which is steered and not measured.")
        return said


def template_notes(tokenizer: PreTrainedTokenizerBase) -> TemplateNotes:
    """The notes of a tokenizer's template, by rendering probes.

    Raises:
        UserError: it has no chat template, or one that cannot be used.
    """
    asked = [{"role": "user", "content": PROBE_QUESTION}]
    systems = [{"role": "system", "content": PROBE_SYSTEM}, *asked], [{"role": "system", "content": ""}, *asked]
    plain, given, empty = (rendered(tokenizer, messages) for messages in (asked, *systems))
    answered = answered_text(tokenizer, asked, PROBE_ANSWERS[0]).whole
    default = _default(plain, given)
    return TemplateNotes(
        key=content_key([plain, given, empty, answered]),
        clock=f"{CLOCK:%Y-%m-%d}" if tells_the_time(tokenizer) else "",
        plain=plain.replace(PROBE_QUESTION, "{question}"),
        default_system=default,
        system_place="system" if _takes_system(tokenizer, systems[0]) else "user",
        header=answer_form(tokenizer).header,
        empty_system=default if empty == plain else "",
    )


def _takes_system(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> bool:
    try:
        return PROBE_SYSTEM in apply_chat_template(tokenizer, messages, prompt=True)
    except UserError:
        return False


def _default(plain: str, given: str) -> str:
    """What stands in the system text's own place where none is given."""
    front, other = plain.partition(PROBE_QUESTION)[0], given.partition(PROBE_QUESTION)[0]
    before, _, after = other.partition(PROBE_SYSTEM)
    framed = front.startswith(before) and front.endswith(after) and len(front) > len(before) + len(after)
    return front[len(before) : len(front) - len(after)].strip() if framed else ""
