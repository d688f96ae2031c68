"""A file or a folder is written whole or not at all: built beside its place, synced, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

# Every unfinished file or folder starts with this, so that what a SIGKILL leaves can be recognised and removed.
TEMPORARY = ".tmp-"


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file, or leave what was there untouched; text as UTF-8.

    Raises:
        UserError: the disk is full, no permission, a folder in the way; names the file.
    """
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        try:
            write_synced(temporary, data)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A copy of `folder` (empty where there is none) to change; it takes the folder's place when the block ends well.

    Raises:
        UserError: the disk is full, no permission; names the folder, which is then as it was.
    """
    staged = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                shutil.copytree(folder, staged, symlinks=True)
            else:
                staged.mkdir()
            yield staged
            _swap(staged, folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def append_synced(path: Path, data: bytes, *, start: int) -> None:
    """Write behind the first `start` bytes and wait until the disk has it; made where it is not there yet.

    What stands behind `start`, cut off by a kill or a full disk, is overwritten and not appended to.

    Raises:
        UserError: the disk is full or cannot be written; names the file.
    """
    try:
        with path.open("ab") as file:
            file.truncate(start)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def write_synced(path: Path, data: str | bytes) -> None:
    """Create a new file and wait until the disk has it."""
    # 0o666 and the umask, as for any file; mkstemp's 0o600 would lock colleagues out of shared results.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data.encode("utf-8") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def remove_temporary(folder: Path) -> None:
    """Delete what killed writers left anywhere in a folder; only for the process that holds the folder's lock."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def unwritable(path: Path, error: OSError) -> UserError:
    """The one line for a place that the system did not let us write."""
    reason = error.strerror or str(error)
    return UserError(f"{terminal_safe(str(path))}: cannot be written ({reason}); free space or choose another folder")


def _swap(staged: Path, folder: Path) -> None:
    # A folder cannot be renamed onto one that is not empty. A kill between the two renames leaves it absent, which
    # is made again; it never leaves a mixture.
    retired = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    if folder.exists():
        folder.rename(retired)
    try:
        staged.rename(folder)
    except BaseException:
        if retired.exists():
            retired.rename(folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    # Without it a rename may be lost in a power cut although the file's bytes are on the disk.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
