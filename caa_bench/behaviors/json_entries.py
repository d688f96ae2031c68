"""A JSON file that holds a list -> its entries with their lines. Knows nothing of what the entries mean.

The faults that are collected over all files, and how a file's text is read safely, stand here too.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, Generic, TypeVar

from caa_bench.errors import UserError

MAX_BYTES = 64 * 2**20
MAX_FAULTS = 10
_SPACE = re.compile(r"[ \t\r\n]*")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Located(Generic[T]):
    """Something that was read, and the 1-based line where it begins."""

    line: int
    value: T


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with a behavior's data, collected over all its files before anything is refused."""

    lines: dict[Path, list[str]] = field(default_factory=dict)

    def add(self, path: Path, line: int | None, text: str) -> None:
        """Note one fault; `line` is None for a file that could not be read at all."""
        where = path if line is None else f"{path}:{line}"
        self.lines.setdefault(path, []).append(f"{where}: {text}")

    def refuse(self) -> None:
        """Nothing where there are no faults.

        Raises:
            UserError: a line for each fault, at most MAX_FAULTS a file and then how many more there are.
        """
        shown = []
        for path, lines in self.lines.items():
            shown += lines[:MAX_FAULTS]
            if len(lines) > MAX_FAULTS:
                shown.append(f"{path}: and {len(lines) - MAX_FAULTS} more faults; mend the ones above first")
        if shown:
            raise UserError(*shown)


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which keys it was given twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(self) < len(keys) else []


def read_json_list(path: Path, faults: Faults) -> list[Located[Any]]:
    """The entries of a JSON list, with the line where each begins; unchecked."""
    text = read_text(path, faults)
    if text is None:
        return []
    entries: list[Located[Any]] = []
    try:
        _scan(text, entries)
    except JSONDecodeError as error:
        faults.add(path, error.lineno, f"not JSON here: {error.msg}; the rest of the file was not read")
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        line = entries[-1].line if entries else 1
        faults.add(path, line, "behind this line stands JSON that no split needs; write a flat list of items")
    else:
        if not entries and path.stem != "selection":  # which may be left out, and [] says that it is
            faults.add(path, 1, "the split is empty; give it items")
    return entries


def _scan(text: str, entries: list[Located[Any]]) -> None:
    """Append each entry of the list in `text`, one by one, because json.loads keeps no line numbers."""
    decoder = JSONDecoder(object_pairs_hook=JsonObject)
    place, line, counted = _skip(text, 0), 1, 0
    if text[place : place + 1] != "[":
        raise JSONDecodeError('a list expected, [{"question": ...}, ...]', text, place)
    closed = text[_skip(text, place + 1) :][:1] == "]"
    while not closed:
        place = _skip(text, place + 1)
        value, end = decoder.raw_decode(text, place)
        line, counted = line + text.count("\n", counted, place), place
        entries.append(Located(line=line, value=value))
        place = _skip(text, end)
        closed = text[place : place + 1] == "]"
        if not closed and text[place : place + 1] != ",":
            raise JSONDecodeError("a comma or the list's end expected", text, place)
    end = _skip(text, text.index("]", place) + 1)
    if end < len(text):
        raise JSONDecodeError("text behind the list", text, end)


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def read_text(path: Path, faults: Faults, *, marked: bool = False) -> str | None:
    """The text of a UTF-8 file, or None and a fault.

    Args:
        marked: whether a byte order mark may stand in front, as spreadsheets write it; it is then left out.
    """
    try:
        # Asked first: opening a named pipe waits for a writer, and a device may never end.
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            faults.add(path, None, "no regular file but a pipe or a device; give a file")
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        faults.add(path, None, f"cannot be read ({error.strerror}); every split needs its file")
        return None
    if len(data) > MAX_BYTES:
        faults.add(path, 1, f"over {MAX_BYTES // 2**20} MiB; a split is a few MiB at most, shorten it")
    elif data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) and not (marked and data[:1] == b"\xef"):
        faults.add(path, 1, "starts with a byte order mark; save the file as UTF-8 without one")
    else:
        try:
            return data.decode("utf-8-sig" if marked else "utf-8")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            faults.add(path, line, f"not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8")
    return None
