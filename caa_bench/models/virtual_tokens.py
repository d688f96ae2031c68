"""Virtual tokens: positions at the very front of a prompt that stand for no text, for an intervention to fill.

They travel with the prompt itself, so that whoever runs it, in whatever order, knows which positions they are; no token
id that a user's text may hold says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ROLE = "virtual"
"""Of a message that stands for virtual tokens and not for a turn."""
MARK = "\ufdd1"
"""Around the owner's name in a rendered text. A noncharacter of Unicode, which no text holds."""
_FRONT = re.compile(f"(?:{MARK}[^{MARK}]+{MARK})+")


class VirtualToken(int):
    """A token id that is only there for its place: the model's own embedding of it is to be replaced.

    Args:
        value: the id that the model is given, of an ordinary token.
        owner: label of the intervention that fills the place.
        place: which of the owner's tokens it is, from 0.
    """

    owner: str
    place: int

    def __new__(cls, value: int, owner: str, place: int) -> VirtualToken:
        """The id itself, with what it stands for."""
        made = super().__new__(cls, value)
        made.owner, made.place = owner, place
        return made

    def __getnewargs__(self) -> tuple[int, str, int]:  # type: ignore[override]
        return int(self), self.owner, self.place

    def __str__(self) -> str:
        return f"[{self.owner} {self.place}]"


def virtual_message(owner: str, count: int) -> dict[str, str]:
    """What `Intervention.rewrite` puts among the messages; they come first, wherever it stands.

    Args:
        owner: label of the intervention.
        count: how many tokens.
    """
    return {"role": ROLE, "owner": owner, "content": " x" * count}  # as long as that many tokens, for estimates


def marks(messages: Sequence[Mapping[str, str]]) -> str:
    """The virtual tokens of a conversation as they stand in front of its text."""
    own = [message for message in messages if message["role"] == ROLE]
    return "".join(f"{MARK}{message['owner']}{MARK}" * message["content"].count("x") for message in own)


def owners(text: str) -> tuple[list[str], str]:
    """Whose each virtual token at the front of a rendered text is, and the text behind them."""
    found = _FRONT.match(text)
    if found is None:
        return [], text
    return re.findall(f"{MARK}([^{MARK}]+){MARK}", found[0]), text[found.end() :]


def virtual_tokens(names: Sequence[str], value: int) -> tuple[VirtualToken, ...]:
    """The tokens of these owners, each owner's counted from 0. [k]"""
    return tuple(VirtualToken(value, name, names[:place].count(name)) for place, name in enumerate(names))
