"""One pinned file over HTTP: resumed where it was cut, checked against its sha256, put in place whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from caa_bench.errors import UserError
from caa_bench.storage.atomic import unwritable
from caa_bench.storage.files import sha256_file

ATTEMPTS = 4
PAUSE_S = 0.5
_CHUNK = 64 * 1024
# What the disk says, as opposed to the network: trying again would not help.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.EFBIG}
_INSTEAD = "or fetch the files on another machine and use caa-bench data download --from DIR"


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A file as it must be: its name, its checksum and its size."""

    name: str
    sha256: str
    bytes: int

    def matches(self, path: Path) -> bool:
        """Whether `path` is this file, byte for byte."""
        return path.is_file() and path.stat().st_size == self.bytes and sha256_file(path) == self.sha256


class _Absent(Exception):
    """The server has no such file."""


def fetch(urls: Sequence[str], path: Path, pinned: Pinned, *, timeout_s: float) -> None:
    """Download `pinned` to `path` from the first address that has it.

    What has arrived waits in `<path>.part`, so that a cut download goes on where it stopped, in this call or in a later
    one. `path` itself appears only whole and checked.

    Args:
        timeout_s: longest silence of the server that is waited for.

    Raises:
        UserError: nothing there, no network, cut too often, or not the pinned bytes (then nothing of it is kept).
    """
    part = path.with_name(f"{path.name}.part")
    for url in urls:
        try:
            resumed = _fill(url, part, pinned, timeout_s=timeout_s)
            if resumed and not pinned.matches(part):
                part.unlink()  # the beginning may have been another file's: once more, from nothing
                _fill(url, part, pinned, timeout_s=timeout_s)
        except _Absent:
            continue
        _put_in_place(part, path, pinned, url)
        return
    raise UserError(f"{urls[0]}: not there (404); check --behavior and the address, {_INSTEAD}")


def _fill(url: str, part: Path, pinned: Pinned, *, timeout_s: float) -> bool:
    """Append to `part` until it has all its bytes; returns whether it began with bytes of an earlier call."""
    resumed = _size(part) > 0
    problem = ""
    for attempt in range(ATTEMPTS):
        if (before := _size(part)) >= pinned.bytes:
            return resumed
        try:
            _append(url, part, pinned, timeout_s=timeout_s)
            problem = "the connection was cut"
        except HTTPError as error:
            problem = _refusal(url, part, error)
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            if isinstance(error, OSError) and error.errno in _DISK:
                raise unwritable(part, error) from error
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        if _size(part) == before and attempt < ATTEMPTS - 1:
            time.sleep(PAUSE_S * 2**attempt)
    if _size(part) >= pinned.bytes:
        return resumed
    kept = f"{_size(part):,} of {pinned.bytes:,} bytes are kept"
    raise UserError(f"{url}: {problem}; {kept}, run the same command to go on, {_INSTEAD}")


def _append(url: str, part: Path, pinned: Pinned, *, timeout_s: float) -> None:
    have = _size(part)
    headers = {"User-Agent": "caa-bench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urlopen(Request(url, headers=headers), timeout=timeout_s) as response:  # noqa: S310 - http(s), see download
        goes_on = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        with part.open("ab" if goes_on else "wb") as file:
            # One byte beyond the pinned size is enough to know that it is another file.
            left = pinned.bytes + 1 - (have if goes_on else 0)
            # read1, as read() would lose what came before the connection fell silent.
            while left > 0 and (data := response.read1(min(_CHUNK, left))):
                file.write(data)
                left -= len(data)


def _refusal(url: str, part: Path, error: HTTPError) -> str:
    """What an HTTP error means for the next attempt."""
    error.close()
    if error.code in (404, 410):
        raise _Absent
    if error.code == 416:  # the server's file ends before ours begins: it is another file
        part.unlink(missing_ok=True)
        return "the server's file is shorter than the pinned one"
    if error.code < 500 and error.code not in (408, 429):
        raise UserError(f"{url}: the server refused it ({error.code} {error.reason}); try again later, {_INSTEAD}")
    return f"the server failed ({error.code} {error.reason})"


def _put_in_place(part: Path, path: Path, pinned: Pinned, url: str) -> None:
    if not pinned.matches(part):
        got = sha256_file(part)
        part.unlink()
        raise UserError(
            f"{url}: not the pinned file (sha256 {got[:12]}..., expected {pinned.sha256[:12]}...), nothing was kept; "
            f"try again, {_INSTEAD}"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
