"""The body of a request in OpenAI's form -> what is to be said. Whatever would change the answer is done or refused.

Knows nothing of HTTP and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from caa_bench.commands.continuing import refuse_what_is_no_text
from caa_bench.commands.serve_doses import KEY, Offer, SteeredBy, finite
from caa_bench.errors import UserError
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from caa_bench.models.prompts import Message

MOST_STOPS = 16
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Keys that have no part in what is said."""
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "top_p": (1,), "top_k": (-1, 0), "min_p": (0,), "presence_penalty": (0,),
    "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "top_logprobs": (0,), "echo": (False,), "suffix": ("",), "modalities": (["text"],), "parallel_tool_calls": (True,),
    "reasoning_effort": ("none",),
}  # fmt: skip
"""Keys that are refused unless they ask for nothing, with the values that do."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request.

    Args:
        model: the name that it asked for.
        messages: the conversation; empty where `prompt` is given.
        prompt: a text, or token ids; None for a conversation.
        steered: base and doses.
        steering: EasySteer's field, as it came; None where it says nothing.
        max_new_tokens: None for the server's own limit.
        temperature: 0 is greedy.
        seed: of what is drawn; None: any.
        stop / stop_ids: texts and tokens that end the answer.
        stream / usage: piece by piece, and whether the last piece counts tokens.
        log_probs / token_ids: whether the reply holds them.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    steered: SteeredBy = field(default_factory=SteeredBy)
    steering: Any = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    stream: bool = False
    usage: bool = False
    log_probs: bool = False
    token_ids: bool = False


def read_request(body: Any, offer: Offer, *, chat: bool) -> Asked:
    """One request, every key of it looked at.

    Args:
        chat: a conversation (`/v1/chat/completions`), else a prompt (`/v1/completions`).

    Raises:
        UserError: what is wrong, beginning with the key.
    """
    if not isinstance(body, dict):
        raise UserError("body: expected a JSON object, with model and messages")
    keys = _Keys({key: value for key, value in body.items() if value is not None and key not in _IGNORED})
    keys.refuse_what_is_not_there()
    model = keys.take("model", _text, required=True)
    stream = keys.take("stream", _yes_no, False)
    log_probs = keys.take("logprobs", _yes_no if chat else _log_probs, False)
    if log_probs and (chat or stream):
        raise UserError("logprobs: only /v1/completions without stream has them; leave it out")
    asked = Asked(
        model=model,
        messages=keys.take("messages", _messages, required=True) if chat else (),
        prompt=None if chat else keys.take("prompt", _prompt, required=True),
        steered=_steered(offer, model, keys),
        steering=keys.take("steering", lambda _, value: value or None),
        max_new_tokens=_limit(keys),
        temperature=keys.take("temperature", _temperature, 0.0),
        seed=keys.take("seed", _whole_number, None),
        stop=keys.take("stop", _stops, ()),
        stop_ids=keys.take("stop_token_ids", _ids, ()),
        stream=stream,
        usage=keys.take("stream_options", _usage, False),
        log_probs=log_probs,
        token_ids=keys.take("return_token_ids", _yes_no, False),
    )
    keys.refuse_the_rest()
    if asked.steering and asked.steered.doses:
        raise UserError(f"steering: and a dose of {KEY} beside it; give one of them")
    if not chat and asked.steered.base != "none":
        raise UserError(f"{KEY}.base: a prompt in tokens is what it is; put it on base none, or send messages")
    return asked


class _Keys:
    """The keys of a body, each read once."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def take(self, key: str, read: Callable[[str, Any], Any], otherwise: Any = None, *, required: bool = False) -> Any:
        """The value of a key as `read` gives it, `otherwise` where it is not there."""
        if key not in self._given:
            if required:
                raise UserError(f"{key}: missing; write it into the request")
            return otherwise
        return read(key, self._given.pop(key))

    def refuse_what_is_not_there(self) -> None:
        """What this server cannot do is refused, and not left undone in silence."""
        for key in _NOTHING.keys() & self._given.keys():
            if self._given.pop(key) not in _NOTHING[key]:
                raise UserError(f"{key}: this server does not have it; leave it out")

    def refuse_the_rest(self) -> None:
        """A key that nobody read."""
        if self._given:
            name = terminal_safe(str(min(self._given))[:80])
            raise UserError(f"{name}: unknown key; leave it out, as it would change nothing here")


def _steered(offer: Offer, model: str, keys: _Keys) -> SteeredBy:
    named = offer.of_model(model)
    asked: SteeredBy | None = keys.take(KEY, lambda _, value: offer.of_request(value))
    if asked is None:
        return named
    if model != offer.name:
        raise UserError(f"{KEY}: and a dose in the model's name beside it; ask for model {offer.name} with {KEY}")
    return asked


def _limit(keys: _Keys) -> int | None:
    found = {key: keys.take(key, _count) for key in ("max_tokens", "max_completion_tokens")}
    given = {value for value in found.values() if value is not None}
    if len(given) > 1:
        raise UserError("max_tokens: and another max_completion_tokens beside it; give one of them")
    return given.pop() if given else None


def _messages(key: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise UserError(f"{key}: expected a list of messages with role and content")
    said = tuple(_message(f"{key}[{number}]", one) for number, one in enumerate(value))
    if said[-1]["role"] != "user":
        raise UserError(f"{key}: the last one must be the user's; the server says what comes next")
    return said


def _message(place: str, value: Mapping[str, Any]) -> Message:
    if unknown := [key for key, item in value.items() if key not in ("role", "content") and item not in (None, [])]:
        raise UserError(f"{place}.{terminal_safe(str(unknown[0])[:80])}: this server does not have it; leave it out")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise UserError(f"{place}.role: expected one of {', '.join(_ROLES)}")
    content = value.get("content")
    if isinstance(content, list):
        parts = [
            one["text"]
            for one in content
            if isinstance(one, dict) and (one.get("type"), type(one.get("text"))) == ("text", str)
        ]
        content = "".join(parts) if len(parts) == len(content) else None
    if not isinstance(content, str):
        raise UserError(f"{place}.content: expected text; this server takes no images, sounds or files")
    if role == "user" or content:
        refuse_what_is_no_text(content)
    return {"role": _ROLES[role], "content": content}


def _prompt(key: str, value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        refuse_what_is_no_text(value)
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    ids: tuple[int, ...] = _ids(key, value)
    if not ids:
        raise UserError(f"{key}: it is empty; write a text, or token ids")
    return ids


def _ids(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        raise UserError(f"{key}: expected token ids, whole numbers from 0 on")
    return tuple(value)


def _stops(key: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts) or len(texts) > MOST_STOPS:
        raise UserError(f"{key}: expected a text or at most {MOST_STOPS} texts, none of them empty")
    return tuple(texts)


def _usage(key: str, value: Any) -> bool:
    if not isinstance(value, dict) or set(value) - {"include_usage"}:
        raise UserError(f"{key}: only include_usage is known here")
    return _yes_no(f"{key}.include_usage", value.get("include_usage") or False)


def _log_probs(key: str, value: Any) -> bool:
    if value not in (0, 1) or isinstance(value, bool):
        raise UserError(f"{key}: 0 or 1 here, of the tokens that were said; no others are kept")
    return True


def _temperature(key: str, value: Any) -> float:
    number = finite(value)
    if number is None or number < 0:
        raise UserError(f"{key}: expected a number, 0 or more; 0 always takes the likeliest token")
    return number


def _whole_number(key: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise UserError(f"{key}: expected a whole number, 0 or more")
    return value


def _count(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{key}: expected a whole number, 1 or more")
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key}: expected text")
    return value


def _yes_no(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{key}: expected true or false")
    return value
