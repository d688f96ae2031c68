"""Answers -> OpenAI's JSON: whole, or as the events of a stream; lists of models; errors."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caa_bench.commands.serve_speaker import Ready, Spoken

_KEY = re.compile(r"[a-z_]+(?:[.\[][\w\]]+)*(?=: )")
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def listed(names: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of `/v1/models`."""
    return [{"id": name, "object": "model", "created": 0, "owned_by": "caa_bench"} for name in names]


def failure(what: str, *, status: int, code: str | None = None) -> dict[str, Any]:
    """An error; `param` is the key that its message begins with."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    key = _KEY.match(what)
    return {"error": {"message": what, "type": kind, "param": key[0] if key else None, "code": code}}


def reply(ready: Ready, spoken: Spoken) -> dict[str, Any]:
    """The whole answer; `caa_bench` in it says what it was given under, so that it can be asked for again."""
    asked = ready.asked
    if asked.messages:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": spoken.text}}
    else:
        choice = {"text": spoken.text}
    choice |= {"index": 0, "finish_reason": spoken.ended, "logprobs": None}
    if asked.log_probs:
        choice["logprobs"] = {"token_logprobs": list(spoken.log_probs)}
    if asked.token_ids:
        choice["token_ids"] = list(spoken.ids)
    return _head(ready) | {"choices": [choice], "usage": _usage(ready, spoken), "caa_bench": _answered_under(ready)}


def stream_head(ready: Ready) -> dict[str, Any]:
    """What all events of a stream have in common."""
    head = _head(ready)
    return head | {"object": "chat.completion.chunk"} if ready.asked.messages else head


def stream_piece(head: dict[str, Any], piece: str | None) -> dict[str, Any]:
    """A piece of text; None for the first event, which says who speaks."""
    if head["object"] == "text_completion":
        part: dict[str, Any] = {"text": piece or ""}
    else:
        part = {"delta": {"role": "assistant", "content": ""} if piece is None else {"content": piece}}
    return head | {"choices": [{"index": 0, "finish_reason": None} | part]}


def stream_rest(head: dict[str, Any], ready: Ready, spoken: Spoken) -> Iterator[dict[str, Any]]:
    """The last events: why it ended, and what it cost where that was asked for."""
    part: dict[str, Any] = {"text": ""} if head["object"] == "text_completion" else {"delta": {}}
    if ready.asked.token_ids:
        part["token_ids"] = list(spoken.ids)
    choice = {"index": 0, "finish_reason": spoken.ended} | part
    yield head | {"choices": [choice], "caa_bench": _answered_under(ready)}
    if ready.asked.usage:
        yield head | {"choices": [], "usage": _usage(ready, spoken)}


def _head(ready: Ready) -> dict[str, Any]:
    chat = bool(ready.asked.messages)
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": ready.asked.model,
    }


def _usage(ready: Ready, spoken: Spoken) -> dict[str, int]:
    asked, said = len(ready.prompt.ids), len(spoken.ids)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _answered_under(ready: Ready) -> dict[str, Any]:
    asked = ready.asked
    seed = ready.seed if asked.temperature > 0 else None
    return {"base": asked.steered.base, "vectors": [asdict(dose) for dose in asked.steered.doses], "seed": seed}
