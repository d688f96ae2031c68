"""Files that are whole or absent, checksums, safe names, one lock a folder, text that cannot attack its reader."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caa_bench.errors import UserError

# Every unfinished file or folder starts with this, so that what a SIGKILL leaves can be recognised and removed.
TEMPORARY = ".tmp-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@-]*")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~]?)", re.DOTALL)
# C0 and C1 controls, line separators, invisible and direction-changing marks, lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file, or leave what was there untouched; text as UTF-8.

    Raises:
        UserError: the disk is full, no permission, a folder in the way; names the file.
    """
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        try:
            _write_synced(temporary, data.encode("utf-8") if isinstance(data, str) else data)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """The one line for a file that the system did not let us write."""
    reason = error.strerror or str(error)
    return UserError(f"{terminal_safe(str(path))}: cannot be written ({reason}); free space or choose another folder")


def _write_synced(path: Path, data: bytes) -> None:
    # 0o666 and the umask, as for any file; mkstemp's 0o600 would lock colleagues out of shared results.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(obj: object, *, indent: int | None = None) -> str:
    """JSON without NaN or infinity: what is missing is null. Keys keep their order."""
    return json.dumps(_finite(obj), allow_nan=False, ensure_ascii=False, indent=indent)


def write_json(path: Path, obj: object) -> None:
    """`to_json`, indented, written atomically."""
    write_atomic(path, to_json(obj, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        UserError: missing, unreadable, or not JSON; names the file and the line.
    """
    shown = terminal_safe(str(path))
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror}); check the path") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}:{error.lineno}: not valid JSON ({error.msg}); make the file again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{shown}:1: not valid JSON; make the file again") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _finite(obj: object) -> object:
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {key: _finite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_finite(value) for value in obj]
    return obj


def content_key(obj: object) -> str:
    """sha256 of the value as sorted, compact JSON: equal values, equal keys.

    Raises:
        ValueError: NaN or infinity, which are not a value to key a result by.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return sha256_bytes(text.encode())


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, if that is really inside the folder once symlinks are followed.

    Raises:
        UserError: the name is not safe, or a symlink leads out of the folder.
    """
    path = folder / safe_name(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{terminal_safe(str(path))}: leads outside of {terminal_safe(str(folder))}; remove the link")
    return path


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone. The system releases it with the process, also after SIGKILL.

    Raises:
        UserError: another process holds it (named by pid, host and since when), or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".lock-holder.json"
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{terminal_safe(str(folder))}: in use by {_holder(holder)}; wait for it, or stop it") from None
    except OSError as error:
        raise unwritable(folder / ".lock", error) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        known = read_json(path)
        return terminal_safe(f"process {known['pid']} on {known['host']} since {known['since']}")
    except (UserError, KeyError, TypeError):
        return "another process"


def terminal_safe(text: str) -> str:
    """The text on one line, without ANSI sequences, control characters and direction marks."""
    visible = _ESCAPES.sub("", text)
    return _CONTROLS.sub(lambda match: " " if match[0] in "\t\n\r\x0b\x0c\x85\u2028\u2029" else "", visible)


def csv_cell(value: object) -> object:
    """A value that no spreadsheet runs: text that starts like a formula gets a leading apostrophe."""
    if isinstance(value, str) and value.lstrip()[:1] in {"=", "+", "-", "@", "|", "＝", "＋", "－", "＠"}:
        return f"'{value}"
    return f"'{value}" if isinstance(value, str) and value[:1] in {"\t", "\r", "\n"} else value
