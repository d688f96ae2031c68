"""Mistakes a user can make: one line each (where: what is wrong; what to do), exit 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """One or more mistakes of the user's, found before any model is loaded where that is possible.

    Args:
        *lines: one line a mistake, each saying where, what is wrong and what to do.
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(line.replace("\n", " ") for line in lines)
        super().__init__("\n".join(self.lines))
