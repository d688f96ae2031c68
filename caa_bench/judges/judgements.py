"""Judgements in one append-only file: written as soon as it is there, each survives a SIGKILL.

Each is one JSON line `{"judge", "key", "score", "reply"}`. A last line that was cut off is ignored and overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caa_bench.errors import UserError
from caa_bench.judges.base import Asked, Judgement
from caa_bench.storage.atomic import append_synced, write_atomic
from caa_bench.storage.files import content_key
from caa_bench.storage.safe_text import terminal_safe

FILE = "judgements.jsonl"


def judgement_key(settings: Mapping[str, Any], asked: Asked) -> str:
    """Content key of everything that decides a judgement: 16 hex digits.

    Args:
        settings: the judge's (`Judge.settings`).
    """
    return content_key([settings, asked.question, asked.text])[:16]


class Judgements:
    """The judgements of one run.

    Args:
        path: the file; made by the first `append`.

    Attributes:
        kept: judge -> key -> its judgement.

    Raises:
        UserError: a line before the last one is damaged; names file:line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, dict[str, Judgement]] = {}
        self._size = 0
        data = path.read_bytes() if path.exists() else b""
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if not self._take(line):
                if number < len(lines):
                    raise UserError(f"{terminal_safe(str(path))}:{number}: damaged; delete this file and run again")
                break
            self._size += len(line)

    def of(self, judge: str) -> dict[str, Judgement]:
        """What this judge has said, by key."""
        return self.kept.setdefault(judge, {})

    def append(self, judge: str, found: Iterable[tuple[str, Judgement]]) -> None:
        """Write (key, judgement) pairs.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        pairs = list(found)
        data = b"".join(_judgement_line(judge, key, judgement) for key, judgement in pairs)
        append_synced(self.path, data, start=self._size)
        self._size += len(data)
        self.of(judge).update(pairs)

    def rewrite_in_order(self, order: Mapping[str, Sequence[str]]) -> None:
        """Bring the lines into this order of judges and keys, so that the finished file does not tell its history."""
        lines = [
            _judgement_line(judge, key, self.of(judge)[key])
            for judge, keys in order.items()
            for key in dict.fromkeys(keys)
            if key in self.of(judge)
        ]
        data = b"".join(lines)
        if lines and data != self.path.read_bytes():
            write_atomic(self.path, data)
            self._size = len(data)

    def _take(self, line: bytes) -> bool:
        try:
            read = json.loads(line)
            judge, key, judgement = read["judge"], read["key"], Judgement(score=read["score"], reply=read["reply"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return False
        whole = line.endswith(b"\n") and isinstance(judge, str) and isinstance(key, str)
        if whole:
            self.of(judge)[key] = judgement
        return whole


def _judgement_line(judge: str, key: str, judgement: Judgement) -> bytes:
    values = {"judge": judge, "key": key, "score": judgement.score, "reply": judgement.reply}
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"
