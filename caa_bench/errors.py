"""Mistakes a user can make: one line each (where: what is wrong; what to do), exit 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class UserError(Exception):
    """One or more mistakes of the user's, found before any model is loaded where that is possible.

    Args:
        *lines: one line a mistake, each saying where, what is wrong and what to do.

    Example:
        >>> from caa_bench import UserError, load_behavior
        >>> try:
        ...     load_behavior("refusl")
        ... except UserError as error:
        ...     print(error.lines[0].partition(";")[0])
        behavior: there is no behavior 'refusl'
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(line.replace("\n", " ") for line in lines)
        super().__init__("\n".join(self.lines))


def too_few(given: Mapping[str, float | None], *, least: int = 1) -> list[str]:
    """One line for each number by its key that is smaller than that; None is no limit."""
    return [
        f"{key}: {value} is too few; give {least} or more"
        for key, value in given.items()
        if value is not None and value < least
    ]


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
