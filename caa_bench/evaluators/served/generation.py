"""`engine.generate.generate`, made on a server where that can be: prompts as tokens, vectors inside the request.

The request is EasySteer's (vLLM that steers), which `caa-bench serve` takes too. Conditions that cannot be sent are
generated here. Shapes: N prompts, C conditions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import nn

from caa_bench.engine.easysteer import can_be_sent, steering_field
from caa_bench.engine.edit import Edit
from caa_bench.engine.generate import Continuation, generate
from caa_bench.evaluators.server import Server
from caa_bench.judges.patience import Patience
from caa_bench.judges.wire import Endpoint, Failed, Refused
from caa_bench.models.prompts import Prompt

# What a server would otherwise take from the model's generation_config.json: Qwen 2.5 asks for a repetition penalty.
_PLAIN = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip


class ServedGeneration:
    """Called as `generate`, and gives what it gives.

    Args:
        server: where it is, and how patiently it is asked.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._endpoint = Endpoint(
            base_url=server.base_url,
            key=os.environ.get(server.key_env, "") if server.key_env else "",
            timeout_s=server.timeout_s,
        )

    def __call__(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        conditions: Sequence[Sequence[Edit]],
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        temperature: float = 0.0,
        seeds: Sequence[Sequence[int]] | None = None,
        **here: Any,
    ) -> list[list[Continuation]]:
        """Continuations, made there under the conditions that can be sent, here under the others. [N][C]

        Args:
            **here: what else `generate` takes.

        Raises:
            ConnectionError: the server did not answer, or refused; nothing is made here in its place.
        """
        sent = [c for c, edits in enumerate(conditions) if can_be_sent(edits)]
        kept = [c for c in range(len(conditions)) if c not in sent]
        decoding: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": stop_ids, "temperature": temperature}
        found: dict[tuple[int, int], Continuation] = {}
        if kept:
            own = seeds and [[row[c] for c in kept] for row in seeds]
            said = generate(model, prompts, [conditions[c] for c in kept], seeds=own, **decoding, **here)
            found |= {(n, c): one for n, row in enumerate(said) for c, one in zip(kept, row, strict=True)}
        places = [(n, c) for n in range(len(prompts)) for c in sent]
        bodies = [
            self._body(prompts[n], conditions[c], seed=seeds[n][c] if seeds else 0, decoding=decoding)
            for n, c in places
        ]
        found |= dict(zip(places, self._asked(bodies, frozenset(stop_ids)), strict=True))
        return [[found[n, c] for c in range(len(conditions))] for n in range(len(prompts))]

    def _asked(self, bodies: Sequence[dict[str, Any]], stop_ids: frozenset[int]) -> list[Continuation]:
        """The answer to each request, in their order; after the first that fails for good none is asked for."""
        own, leaving = self.server, threading.Event()
        patience = Patience(attempts=own.attempts, first_wait_s=own.first_wait_s, leaving=leaving)

        def one(body: dict[str, Any]) -> Continuation:
            try:
                return patience.ask(lambda: _continuation(self._endpoint.ask("completions", body), body, stop_ids))
            except (Failed, Refused):
                leaving.set()
                raise

        with ThreadPoolExecutor(own.requests_at_once) as pool:
            waiting = [pool.submit(one, body) for body in bodies]
            try:
                return [done.result() for done in waiting]
            except (Failed, Refused):
                faults = [fault for done in waiting if not done.cancelled() and (fault := done.exception())]
                first = next((fault for fault in faults if str(fault) != "stopped"), faults[0])
                raise ConnectionError(f"open_ended.server: {first}") from None
            finally:
                leaving.set()
                pool.shutdown(cancel_futures=True)

    def _body(self, prompt: Prompt, edits: Sequence[Edit], *, seed: int, decoding: Mapping[str, Any]) -> dict[str, Any]:
        drawn = {"seed": seed} if decoding["temperature"] > 0 else {}
        return {
            "model": self.server.model,
            "prompt": list(prompt.ids),
            "max_tokens": decoding["max_new_tokens"],
            "temperature": decoding["temperature"],
            "stop_token_ids": sorted(decoding["stop_ids"]),
            "logprobs": 1,
            "return_token_ids": True,
            "steering": steering_field(edits, prompt),
            **drawn,
            **_PLAIN,
        }


def _continuation(reply: Mapping[str, Any], body: Mapping[str, Any], stop_ids: frozenset[int]) -> Continuation:
    """What a reply says, token by token; vLLM counts the token that ended it, which is no part of an answer.

    Raises:
        Failed: no completion in it, or one that is longer than it may be.
        Refused: the server keeps its tokens to itself.
    """
    try:
        choice = reply["choices"][0]
        ids, log_probs, why = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs"), choice
        ended = why["finish_reason"]
    except (LookupError, TypeError, AttributeError):
        raise Failed("garbage") from None
    if ids is None or log_probs is None:
        raise Refused("it gives no token_ids or token_logprobs back; use vLLM 0.10.2 or later, or caa-bench serve")
    if ended not in ("stop", "length") or not all(type(one) is int for one in ids):
        raise Failed("garbage")
    size = len(ids) - 1 if ended == "stop" and ids and ids[-1] in stop_ids else len(ids)
    if size > body["max_tokens"] or len(log_probs) not in (size, len(ids)) or stop_ids & set(ids[:size]):
        raise Failed("garbage")
    try:
        return Continuation(ids=tuple(ids[:size]), ended=ended, log_probs=tuple(map(float, log_probs[:size])))
    except (TypeError, ValueError):
        raise Failed("garbage") from None
