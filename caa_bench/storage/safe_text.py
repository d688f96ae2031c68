"""Text that cannot attack its reader: file names, one terminal line, spreadsheet cells."""

from __future__ import annotations

import re

from caa_bench.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@-]*")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~]?)", re.DOTALL)
# C0 and C1 controls, line separators, invisible and direction-changing marks, lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def safe_name(text: str) -> str:
    """The text itself, if it can be one file's or folder's name on any system.

    Raises:
        UserError: empty, over 120 characters, a leading dot or dash, or anything but ASCII letters, digits and _.,+=@-
    """
    shown = terminal_safe(text[:60])
    if len(text) > 120:
        raise UserError(f"name {shown!r}...: {len(text)} characters; use at most 120")
    if not _NAME.fullmatch(text):
        raise UserError(f"name {shown!r}: not a safe file name; use letters, digits and _ . , + = @ -, no leading dot")
    return text


def terminal_safe(text: str) -> str:
    """The text on one line, without ANSI sequences, control characters and direction marks."""
    visible = _ESCAPES.sub("", text)
    return _CONTROLS.sub(lambda match: " " if match[0] in "\t\n\r\x0b\x0c\x85\u2028\u2029" else "", visible)


def csv_cell(value: object) -> object:
    """A value that no spreadsheet runs: text that starts like a formula gets a leading apostrophe."""
    if isinstance(value, str) and value.lstrip()[:1] in {"=", "+", "-", "@", "|", "＝", "＋", "－", "＠"}:
        return f"'{value}"
    return f"'{value}" if isinstance(value, str) and value[:1] in {"\t", "\r", "\n"} else value
