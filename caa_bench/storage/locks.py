"""One process a folder: the second one is told who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from caa_bench.errors import UserError
from caa_bench.storage.atomic import unwritable, write_atomic
from caa_bench.storage.safe_text import terminal_safe


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
        write_atomic(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process works in a folder: a living one here, or one that another machine's note names.

    What a killed process of this machine left behind does not count; of another machine's nobody can tell from here.
    """
    from filelock import FileLock, Timeout

    try:
        known = json.loads((folder / ".lock-holder.json").read_bytes())
        host, pid = str(known["host"]), int(known["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname():
        return True
    if not is_alive(pid):
        return False
    try:  # the number may be another process's by now: then nobody holds the lock
        with FileLock(folder / ".lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def is_alive(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def place_of_process(folder: Path) -> Path:
    """Where this process alone makes a folder that it then renames; what a dead one left in its own is cleared away.

    On a file system whose locks do not hold, two that make the same must not mix their files.
    """
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())
    for left in folder.parent.glob(f".{folder.name}.{host}.*.unfinished"):
        if not is_alive(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    return folder.parent / f".{folder.name}.{host}.{os.getpid()}.unfinished"


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_bytes())
        return terminal_safe(f"process {known['pid']} on {known['host']} since {known['since']}")
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
