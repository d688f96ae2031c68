"""Mistakes a user can make: one line each (where: what is wrong; what to do), exit 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """One or more mistakes of the user's, found before any model is loaded where that is possible.

    Args:
        *lines: one line a mistake, each saying where, what is wrong and what to do.
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(line.replace("\n", " ") for line in lines)
        super().__init__("\n".join(self.lines))


def all_made(*makes: Callable[[], Any]) -> list[Any]:
    """What each of them gives, all tried before any is refused.

    Raises:
        UserError: the mistakes of all of them.
    """
    made: list[Any] = []
    lines: list[str] = []
    for make in makes:
        try:
            made.append(make())
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(*dict.fromkeys(lines))
    return made
