"""Result rows in one append-only file: a batch is written whole, survives a SIGKILL, and is never computed twice.

Each row is one JSON line; a batch ends with the line `{"batch": key, "rows": n, "sha256": ...}`, and counts only if
that line is there and its checksum holds. What a killed process left behind it is ignored, and overwritten by the
next batch. Nothing is written by reading, so a report may look at a run that is still going on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.atomic import append_synced, write_atomic
from caa_bench.storage.row_kinds import ANSWER_FIELDS as ANSWER_FIELDS
from caa_bench.storage.row_kinds import FIELDS as FIELDS
from caa_bench.storage.row_kinds import METRIC_FIELDS as METRIC_FIELDS
from caa_bench.storage.row_kinds import NOT_FINITE as NOT_FINITE
from caa_bench.storage.row_kinds import as_line as as_line
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    import pandas as pd

_END = b'{"batch":'


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Bytes [start, end) of the file; `rows` row lines and the batch line."""

    start: int
    end: int
    rows: int


class RowStore:
    """The rows of one run.

    Args:
        path: the file, `rows.jsonl`; made by the first `append`.

    Raises:
        UserError: the file is damaged before its last whole batch; names file:line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches = _scan(path, _read(path))

    @property
    def done(self) -> AbstractSet[str]:
        """Keys of the batches that are written whole."""
        return self._batches.keys()

    def append(self, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one batch whole, and wait until the disk has it.

        Args:
            key: the batch's content key.
            rows: dicts of exactly FIELDS, of exactly ANSWER_FIELDS, or of exactly METRIC_FIELDS. `logits` [K] and
                `log_z`, or `value`, may be None where `error` says why. What is not finite is written as null with an
                error, never as a number.

        Raises:
            ValueError: the batch is already there, or a row has other fields.
            UserError: the disk is full or cannot be written; the file then counts as it was.
        """
        if key in self._batches:
            raise ValueError(f"batch {key!r} is already in {self.path}")
        lines = [as_line(row) for row in rows]
        data = b"".join(lines) + _end_line(key, lines)
        start = self._size()
        append_synced(self.path, data, start=start)
        self._batches[key] = _Batch(start=start, end=start + len(data), rows=len(lines))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row of every whole batch, in the file's order."""
        data = _read(self.path)
        for batch in self._batches.values():
            lines = data[batch.start : batch.end].splitlines()[: batch.rows]
            yield from json.loads(b"[" + b",".join(lines) + b"]")

    def frame(self) -> pd.DataFrame:
        """The rows of answer letters as `frame_of` lays them out."""
        return frame_of(row for row in self.rows() if "letters" in row)

    def answers(self) -> list[dict[str, Any]]:
        """The rows of answers in words: dicts of ANSWER_FIELDS."""
        return [row for row in self.rows() if "text" in row]

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics: dicts of METRIC_FIELDS."""
        return [row for row in self.rows() if "metric" in row]

    def refuse_strangers(self, keys: Sequence[str]) -> None:
        """Refuse a file with batches that are not among the plan's keys.

        Raises:
            UserError: the model, an artifact, the data or the program changed since they were computed.
        """
        strangers = self._batches.keys() - set(keys)
        if strangers:
            raise UserError(
                f"{terminal_safe(str(self.path))}: {len(strangers)} of {len(self._batches)} batches were made with "
                "another model, artifact, data or version; delete this file, or choose another output folder"
            )

    def rewrite_in_order(self, keys: Sequence[str]) -> None:
        """Bring the batches into the plan's order, atomically, so that the finished file does not tell its history.

        A batch that failed and was run again stands behind later ones until then. Keys without a batch are skipped.

        Raises:
            UserError: a batch is not among the keys (nothing is ever dropped), or the disk is full.
        """
        self.refuse_strangers(keys)
        order = [key for key in dict.fromkeys(keys) if key in self._batches]
        data = _read(self.path)
        if order == list(self._batches) and len(data) == self._size():
            return
        parts = [data[self._batches[key].start : self._batches[key].end] for key in order]
        write_atomic(self.path, b"".join(parts))
        self._batches = _scan(self.path, b"".join(parts))

    def _size(self) -> int:
        return max((batch.end for batch in self._batches.values()), default=0)


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table: `cell, item, cluster, order, matching, letters, logit_0 .. logit_{K-1}, log_z, error`.

    K is the largest number of options; rows with fewer, and rows with an error, hold NaN there.
    """
    import numpy as np
    import pandas as pd

    rows = list(rows)
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in FIELDS[:6]})
    width = max((len(row["letters"]) for row in rows), default=2)
    logits = np.full((len(rows), width), np.nan)
    for values, row in zip(logits, rows, strict=True):
        values[: len(row["logits"] or ())] = row["logits"] or ()
    for option in range(width):
        frame[f"logit_{option}"] = logits[:, option]
    frame["log_z"] = np.array([row["log_z"] for row in rows], dtype=float)
    frame["error"] = pd.Series([row["error"] for row in rows], dtype=object)
    return frame


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{terminal_safe(str(path))}: cannot be read ({error.strerror}); check the path") from None


def _end_line(key: str, lines: Sequence[bytes]) -> bytes:
    return json.dumps({"batch": key, "rows": len(lines), "sha256": _checksum(key, lines)}).encode() + b"\n"


def _checksum(key: str, lines: Sequence[bytes]) -> str:
    import hashlib

    return hashlib.sha256(b"".join((key.encode(), b"\n", *lines))).hexdigest()


def _scan(path: Path, data: bytes) -> dict[str, _Batch]:
    """The whole batches. A damaged part is ignored at the end of the file and refused before a whole batch."""
    batches: dict[str, _Batch] = {}
    pending: list[bytes] = []
    start = offset = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        offset += len(line)
        pending.append(line)
        end = _parse_end(line)
        if end is None:
            continue
        key, count, sha256 = end
        rows = pending[max(len(pending) - 1 - count, 0) : -1]
        if len(rows) != count or _checksum(key, rows) != sha256:
            continue
        if len(pending) != count + 1 or key in batches:
            raise _damaged(path, number - len(pending) + 1)
        batches[key] = _Batch(start=start, end=offset, rows=count)
        pending, start = [], offset
    return batches


def _parse_end(line: bytes) -> tuple[str, int, str] | None:
    if not line.startswith(_END) or not line.endswith(b"\n"):
        return None
    try:
        end = json.loads(line)
        key, count, sha256 = end["batch"], end["rows"], end["sha256"]
    except (ValueError, KeyError, RecursionError):
        return None
    whole = isinstance(key, str) and type(count) is int and count >= 0
    return (key, count, sha256) if whole else None


def _damaged(path: Path, number: int) -> UserError:
    shown = terminal_safe(str(path))
    return UserError(f"{shown}:{number}: damaged before a whole batch; delete this file and run again")
