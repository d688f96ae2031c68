"""One chat completion over HTTP, and the score in its reply. The standard library alone; follows no redirect."""

from __future__ import annotations

import http.client
import json
import math
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 2**20
_NUMBER = re.compile(r"\s*(\d{1,2}(?:\.\d+)?)\s*(?:/\s*10)?\s*\.?\s*")
_OBJECT = re.compile(r"\{[^{}]*\}")
_REFUSALS = {
    400: "the server refuses the request; set judges.api.structured=false if it does not know response_format",
    401: "the key is refused; check the variable that key_env names",
    403: "the key is refused; check the variable that key_env names",
    404: "there is no such address or model; check base_url and model",
}


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
    """A request that no repetition helps: a wrong key, a wrong address."""


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

    def complete(self, body: dict[str, Any]) -> str:
        """The text of a chat completion.

        Raises:
            Failed: too many requests, a server's fault, a timeout, a cut connection, no completion in the reply.
            Refused: anything else that is not a reply.
        """
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(  # noqa: S310 - `ApiJudge.check` lets only http and https pass
            f"{self.base_url.rstrip('/')}/chat/completions", data=json.dumps(body).encode(), headers=headers
        )
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                return _content(response.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise _status(error) from None
        except TimeoutError:
            raise Failed("timeout") from None
        except urllib.error.URLError as error:
            slow = isinstance(error.reason, TimeoutError)
            raise Failed("timeout" if slow else "no connection") from None
        except (OSError, http.client.HTTPException):
            raise Failed("cut connection") from None


def parse_score(reply: str) -> float | None:
    """The score in a reply as 0-1: `{"score": 7}`, also with words around it, or a number alone; None for the rest."""
    value: Any = None
    if found := _OBJECT.search(reply):
        try:
            value = json.loads(found[0]).get("score")
        except ValueError:
            return None
    elif number := _NUMBER.fullmatch(reply):
        value = float(number[1])
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value / 10 if known and 0 <= value <= 10 else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _content(data: bytes) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Failed("garbage") from None
    if not isinstance(content, str):
        raise Failed("garbage")
    return content


def _status(error: urllib.error.HTTPError) -> Failed | Refused:
    if error.code in (408, 409, 425, 429) or error.code >= 500:
        return Failed(f"HTTP {error.code}", wait_s=_seconds(error.headers.get("Retry-After")))
    return Refused(f"HTTP {error.code}: {_REFUSALS.get(error.code, 'the server refuses the request')}")


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date, which servers hardly use, counts as none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
