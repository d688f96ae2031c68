"""A text file -> its passages, or one line that says what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.storage.paths import is_file
from caa_bench.storage.safe_text import terminal_safe

MAX_BYTES = 32 * 2**20
"""Every passage is a forward in every cell: a larger file is a mistake."""
_BLANK = re.compile(r"\n[^\S\n]*\n")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Text between blank lines.

    Args:
        id: `passages/<4-digit place in the file>`.
        question: the text, without space around it.
        cluster: the first passage of the same text; two copies are not independent.
    """

    id: str
    question: str
    cluster: str


def read_passages(path: Path, *, key: str = "perplexity.file") -> list[Passage]:
    """The passages of a UTF-8 file, in its order.

    Raises:
        UserError: not there, not readable, too large, not UTF-8, no text; one line that starts with `key`.
    """
    text = _passage_text(path, key).replace("\r\n", "\n").replace("\r", "\n")
    first: dict[str, str] = {}
    found: list[Passage] = []
    for passage in filter(None, map(str.strip, _BLANK.split(text))):
        name = f"passages/{len(found):04d}"
        found.append(Passage(id=name, question=passage, cluster=first.setdefault(passage, name)))
    if not found:
        raise UserError(f"{key}: {_path_text(path)} holds no text; write passages, separated by blank lines")
    return found


def _passage_text(path: Path, key: str) -> str:
    if not is_file(path):
        raise UserError(f"{key}: there is no file {_path_text(path)}; give the path of a text file, or leave it empty")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{key}: {_path_text(path)} cannot be read ({error.strerror}); check the file") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{key}: {_path_text(path)} is over {MAX_BYTES // 2**20} MB; give a part of it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{key}: {_path_text(path)}:{line}: not UTF-8; save the file as UTF-8 text") from None
    if "\0" in text:
        raise UserError(f"{key}: {_path_text(path)} holds a NUL byte; give a text file")
    return text


def _path_text(path: Path) -> str:
    return terminal_safe(str(path))
