"""Completions over HTTP. The standard library alone; follows no redirect.

Servers differ in what a request may say. What one refuses by name is said another way or left out, and remembered.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from caa_bench.storage.safe_text import terminal_safe

MOST_BYTES, MOST_REPLY_BYTES = 2**20, 2**26
_REFUSALS = {
    400: "the server refuses the request; check judges.api.model, and set judges.api.structured=false if it does not "
    "know response_format",
    401: "the key is refused; check the variable that key_env names",
    403: "the key is refused; check the variable that key_env names",
    404: "there is no such address or model; check base_url and model",
    413: "the answer is too long for the server; lower open_ended.max_new_tokens",
    422: "the server refuses the request; set judges.api.structured=false if it does not know response_format",
}
_FOR_ALL = (401, 403, 404)
"""Statuses that mean every request alike; others may mean one answer."""
_UNKNOWN = re.compile(
    r"unsupported|not supported|does not support|unrecognized|unknown|unexpected|not permitted|not allowed|forbidden",
    re.IGNORECASE,
)
_OTHERWISE = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "", "temperature": ""}
"""What a key of the request is called instead; "" leaves it out."""


class Failed(Exception):
    """A request that may go well later.

    Args:
        what: in a few words; never what the server wrote, which may hold the key.
        wait_s: when the server wants to be asked again; None where it does not say.
    """

    def __init__(self, what: str, *, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Refused(Exception):
    """A request that no repetition helps: a wrong key, a wrong address.

    Args:
        what: what is wrong and what to do.
        for_all: whether every other request would be refused as well.
    """

    def __init__(self, what: str, *, for_all: bool = True) -> None:
        super().__init__(what)
        self.for_all = for_all


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Args:
        text: the model's words, thoughts included.
        cut: whether it ended at the token limit.
    """

    text: str
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go.

    Args:
        base_url: up to and including `/v1`.
        key: sent as a bearer token; "" for none.
        timeout_s: of connecting and of each read.
    """

    base_url: str
    key: str = field(repr=False)
    timeout_s: float
    _renamed: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def complete(self, body: dict[str, Any]) -> Reply:
        """A chat completion; keys that the server refuses by name are said another way, now and from then on.

        Raises:
            Failed: too many requests, a server's fault, a timeout, a cut connection, no completion in the reply.
            Refused: anything else that is not a reply.
        """
        with self._lock:
            tried = dict(self._renamed)
        while True:
            try:
                reply = _content(self._post("chat/completions", _reworded(body, tried)))
            except urllib.error.HTTPError as error:
                with error:
                    refused = _refused_key(error, _reworded(body, tried))
                    if not refused:
                        raise _status(error) from None
                tried[refused] = _OTHERWISE[refused]
                continue
            with self._lock:
                self._renamed.update(tried)
            return reply

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The whole JSON object that comes back; nothing of the request is said another way.

        Args:
            path: behind `base_url`, as `completions`.

        Raises:
            Failed: as `complete`.
            Refused: the server's own words with it, the key taken out.
        """
        try:
            data = self._post(path, body, most=MOST_REPLY_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                if isinstance(fault := _status(error), Failed):
                    raise fault from None
                raise Refused(f"HTTP {error.code}{self._words_of(error)}", for_all=fault.for_all) from None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise Failed("garbage") from None
        if not isinstance(found, dict):
            raise Failed("garbage")
        return found

    def _words_of(self, error: urllib.error.HTTPError) -> str:
        try:
            said = json.loads(error.read(MOST_BYTES))
            text = said["error"]["message"] if isinstance(said.get("error"), dict) else said["message"]
        except (ValueError, LookupError, TypeError, AttributeError, OSError, http.client.HTTPException, RecursionError):
            return ""
        shown = str(text).replace(self.key, "...") if self.key else str(text)
        return f", {terminal_safe(shown[:300])!r}"

    def _post(self, path: str, body: dict[str, Any], *, most: int = MOST_BYTES) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(  # noqa: S310 - `address_problems` lets only http and https pass
            f"{self.base_url.rstrip('/')}/{path}", data=json.dumps(body).encode(), headers=headers
        )
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                return bytes(response.read(most))
        except urllib.error.HTTPError:
            raise
        except TimeoutError:
            raise Failed("timeout") from None
        except urllib.error.URLError as error:
            slow = isinstance(error.reason, TimeoutError)
            raise Failed("timeout" if slow else "no connection") from None
        except (OSError, http.client.HTTPException):
            raise Failed("cut connection") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _reworded(body: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """The body with each key under the name that is left of it."""
    said = {}
    for key, value in body.items():
        name = key
        while name and name in renamed:
            name = renamed[name]
        if name:
            said[name] = value
    return said


def _refused_key(error: urllib.error.HTTPError, body: dict[str, Any]) -> str:
    """The key of the body that the server says it does not take, if that is one that can be said otherwise.

    A request that is too long names `max_tokens` too, so the words that mean an unknown key must stand there.
    """
    if error.code not in (400, 422):
        return ""
    try:
        text = error.read(MOST_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    if not _UNKNOWN.search(text):
        return ""
    found = [key for key in _OTHERWISE if key in body and re.search(rf"\b{key}\b", text)]
    return min(found, key=text.index, default="")


def _content(data: bytes) -> Reply:
    try:
        choice = json.loads(data)["choices"][0]
        content, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Failed("garbage") from None
    if not isinstance(content, str):
        if cut:  # servers that keep thoughts apart leave the content empty
            return Reply(text="", cut=True)
        raise Failed("garbage")
    return Reply(text=content, cut=cut)


def _status(error: urllib.error.HTTPError) -> Failed | Refused:
    if error.code in (408, 409, 425, 429) or error.code >= 500:
        return Failed(f"HTTP {error.code}", wait_s=_seconds(error.headers.get("Retry-After")))
    hint = _REFUSALS.get(error.code, "the server refuses the request")
    return Refused(f"HTTP {error.code}: {hint}", for_all=error.code in _FOR_ALL or error.code < 400)


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date, which servers hardly use, counts as none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
