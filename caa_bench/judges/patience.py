"""A request that is tried again with growing waits, until it goes well or nobody waits for it any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from caa_bench.judges.wire import Failed

T = TypeVar("T")
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is asked.

    Args:
        attempts: tries of one request.
        first_wait_s: seconds before the second try, doubled before each later one; a server's own wish goes first.
        leaving: set where no more tries are wanted.
    """

    attempts: int
    first_wait_s: float
    leaving: threading.Event

    def ask(self, request: Callable[[], T]) -> T:
        """What the request gives.

        Raises:
            Failed: it failed at the last try, or nobody waits for it.
            Refused: what `request` raises so is not tried again.
        """
        fault = Failed("stopped")
        for attempt in range(self.attempts):
            if self.leaving.is_set():
                break
            try:
                return request()
            except Failed as error:
                fault = error
                wish = self.first_wait_s * 2**attempt if error.wait_s is None else error.wait_s
                if attempt + 1 < self.attempts:
                    self.leaving.wait(min(wish, LONGEST_WAIT_S))
        raise fault


def address_problems(base_url: str, *, key: str) -> list[str]:
    """One line for each thing that is wrong with a server's address; it is not repeated, as it may hold a key.

    Args:
        key: the recipe's, as `judges.api.base_url`.
    """
    no_address = [f"{key}: no http(s) address; write one like https://api.openai.com/v1 or http://[::1]:8000/v1"]
    try:
        address = urlsplit(base_url)
        if "@" in address.netloc or address.query:
            return [f"{key}: holds a key or a query; put the key in the variable that key_env names"]
        if address.netloc.count(":") > 1 and "[" not in address.netloc:
            return [f"{key}: an IPv6 address without brackets; write it like http://[::1]:8000/v1"]
        _ = address.port  # one that is no number is found when it is read
    except ValueError:
        return no_address
    return [] if address.scheme in ("http", "https") and address.hostname else no_address


def server_problems(server: Any, *, section: str) -> list[str]:
    """One line for each of an address, a model and the key's variable that cannot work, found without asking anybody.

    Args:
        server: with `base_url`, `model` and `key_env`.
        section: of the recipe, as `judges.api`.
    """
    lines = address_problems(server.base_url, key=f"{section}.base_url")
    if not server.model:
        lines.append(f"{section}.model: empty; write the model's name on that server")
    if server.key_env and not os.environ.get(server.key_env):
        lines.append(f"{section}.key_env: that environment variable is not set; put the key there, not in the recipe")
    return lines


def waiting_problems(*, timeout_s: float, first_wait_s: float) -> list[str]:
    """One line for each time that nobody can wait."""
    lines = (
        [] if 0 < timeout_s < float("inf") else [f"timeout_s: {timeout_s:g} is no time to wait; give seconds above 0"]
    )
    if not 0 <= first_wait_s < float("inf"):
        lines.append(f"first_wait_s: {first_wait_s:g} is no time to wait; give seconds, 0 or more")
    return lines
