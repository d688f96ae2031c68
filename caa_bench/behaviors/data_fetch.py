"""One pinned file over HTTP: fetched whole, checked against its sha256, put in place whole or not at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from caa_bench.errors import UserError
from caa_bench.storage.atomic import write_atomic
from caa_bench.storage.files import sha256_file

ATTEMPTS = 4
PAUSE_S = 0.5
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


def fetch(urls: Sequence[str], path: Path, pinned: Pinned, *, timeout_s: float) -> None:
    """Download `pinned` to `path` from the first address that has it.

    Args:
        timeout_s: longest silence of the server that is waited for.

    Raises:
        UserError: nothing there, no network, cut too often, not the pinned bytes, or the disk is full; nothing of the
            file is kept then.
    """
    for url in urls:
        data = _retried(url, pinned, timeout_s=timeout_s)
        if data is None:
            continue
        got = hashlib.sha256(data).hexdigest()
        if got != pinned.sha256:
            raise UserError(
                f"{url}: not the pinned file (sha256 {got[:12]}..., expected {pinned.sha256[:12]}...), nothing was "
                f"kept; try again, {_INSTEAD}"
            )
        write_atomic(path, data)
        return
    raise UserError(f"{urls[0]}: not there (404); check --behavior and the address, {_INSTEAD}")


def _retried(url: str, pinned: Pinned, *, timeout_s: float) -> bytes | None:
    """The file's bytes; None where the server has no such file. Cuts, silences and server faults are tried again."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        request = Request(url, headers={"User-Agent": "caa-bench", "Accept-Encoding": "identity"})  # noqa: S310
        try:
            with urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - http(s), see download
                # One byte beyond the pinned size is enough to know that it is another file.
                data: bytes = response.read(pinned.bytes + 1)
        except HTTPError as error:
            error.close()
            if error.code in (404, 410):
                return None
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(f"{url}: the server refused it ({error.code} {error.reason}); {_INSTEAD}") from None
            problem = f"the server failed ({error.code} {error.reason})"
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        else:
            if len(data) >= pinned.bytes:
                return data
            problem = f"the connection was cut after {len(data):,} of {pinned.bytes:,} bytes"
    raise UserError(f"{url}: {problem}; run the same command again, {_INSTEAD}")
