"""What follows a prompt on a base under several conditions, decoded as rows of one batch, within the model's room."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions import Condition, Intervention

if TYPE_CHECKING:
    from caa_bench.engine.edit import Edit
    from caa_bench.engine.generate import Continuation
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Prompt


def continuations(
    chat: ChatModel,
    prompt: Prompt,
    conditions: Sequence[Sequence[Edit]],
    *,
    base: Intervention,
    max_new_tokens: int,
    **decoding: Any,
) -> list[Continuation]:
    """What follows a prompt on a base, under each condition on top of it, all in one batch. [C]

    Args:
        **decoding: as in `engine.generate.generate`; it stops where the model's turn ends.

    Raises:
        UserError: prompt and answer are longer than the model takes.
    """
    from caa_bench.engine.generate import generate

    asked, room = len(prompt.ids), room_of(chat)
    if room is not None and asked + max_new_tokens > room:
        raise UserError(
            f"the conversation has {asked} tokens and the model takes {room}, the answer's {max_new_tokens} "
            "included; shorten it, or start anew"
        )
    decoding = {"stop_ids": chat.stop_ids, **decoding}
    dose = full_dose(base)
    below = base.edits(dose)
    attached = nullcontext() if below is not None else base.attach(chat.model, dose)
    with attached:
        on_top = [[*(below or []), *edits] for edits in conditions]
        (said,) = generate(chat.model, [prompt], on_top, max_new_tokens=max_new_tokens, **decoding)
    return said


def full_dose(base: Intervention) -> Condition:
    """The base's own dose that is nearest to 1, as fitted: what a search has chosen, where it has chosen one."""
    return Condition(multiplier=min(getattr(base.config, "doses", (1.0,)), key=lambda dose: abs(dose - 1)))


def room_of(chat: ChatModel) -> int | None:
    """The most tokens of a prompt and its answer; None where the model does not say."""
    return getattr(chat.model.config, "max_position_embeddings", None)


def refuse_what_is_no_text(said: str) -> None:
    """Bytes that are no UTF-8 come in as halves of characters, which no tokenizer takes.

    Raises:
        UserError: such halves, or nothing at all.
    """
    if not said.strip():
        raise UserError("the question is empty; write one")
    if any("\ud800" <= character <= "\udfff" for character in said):
        raise UserError("the question is not UTF-8 text; write it in UTF-8")
