"""`api`: a judge behind any OpenAI-compatible endpoint (OpenAI, vLLM, llama.cpp, Ollama, transformers serve).

Each answer is one request at temperature 0 with the behavior's 0-10 rubric. What fails for now is tried again with
growing waits, then left out, so that the next run asks only for that. The key is read from the environment and goes
nowhere but into the request's header.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_bench.errors import too_few
from caa_bench.judges.base import Asked, Judge, Judgement, Judging
from caa_bench.judges.patience import Patience, server_problems, waiting_problems
from caa_bench.judges.replies import parse_score, whole_score, without_thoughts
from caa_bench.judges.rubric import NOTHING, rating_request
from caa_bench.judges.wire import Endpoint, Failed, Refused, Reply

if TYPE_CHECKING:
    from caa_bench.behaviors.behavior import Behavior
    from caa_bench.models.model import ChatModel

REPLY = 'Reply with JSON alone: {"score": n}, n a whole number from 0 to 10.'
SCHEMA = {
    "name": "rating",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
        "required": ["score"],
        "additionalProperties": False,
    },
}
CHARACTERS_A_TOKEN = 4
REFUSED_IN_A_ROW = 5


class ApiJudge(Judge):
    """Asks a server for a score from 0 to 10."""

    name = "api"
    request_keys = (
        "key_env",
        "requests_at_once",
        "max_requests",
        "max_tokens",
        "timeout_s",
        "attempts",
        "first_wait_s",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Section `judges.api`.

        Args:
            base_url: up to and including `/v1`.
            model: the model's name on that server.
            key_env: the environment variable that holds the key; "" where the server wants none.
            structured: ask for a reply in a JSON schema; false for servers that do not know `response_format`.
            requests_at_once: answers asked about at the same time.
            max_tokens: longest reply; a model that thinks before it rates needs thousands.
            max_requests: most answers that one run asks about; null: all.
            timeout_s: seconds without a reply after which a request counts as failed.
            attempts: tries an answer gets in one run.
            first_wait_s: seconds before the second try, doubled before each later one; a server's own wish goes first.
        """

        base_url: str = "http://127.0.0.1:8000/v1"
        model: str = ""
        key_env: str = ""
        structured: bool = True
        requests_at_once: int = 4
        max_tokens: int = 64
        max_requests: int | None = None
        timeout_s: float = 60.0
        attempts: int = 5
        first_wait_s: float = 1.0

        def __post_init__(self) -> None:
            names = ("requests_at_once", "attempts", "max_tokens", "max_requests")
            lines = too_few({name: getattr(self, name) for name in names})
            lines += waiting_problems(timeout_s=self.timeout_s, first_wait_s=self.first_wait_s)
            if lines:
                raise ValueError("\n".join(lines))

    def __init__(self, config: Any = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._faults: Counter[str] = Counter()
        self._leaving = threading.Event()
        self._refusal = ""
        self._refused, self._heard = 0, False

    def check(self, behavior: Behavior) -> list[str]:
        """An address, a model, and the key's variable."""
        return server_problems(self.config, section="judges.api")

    def settings(self, behavior: Behavior) -> dict[str, Any]:
        """What decides a score, the text of the request with the rubric included."""
        return super().settings(behavior) | {"request": rating_request(behavior, NOTHING, reply=REPLY)}

    def costs(self, behavior: Behavior, *, answers: int) -> list[str]:
        """Requests and tokens, at most."""
        most = min(answers, self.config.max_requests or answers)
        around = len(rating_request(behavior, NOTHING, reply=REPLY)) // CHARACTERS_A_TOKEN
        limit = "" if self.config.max_requests is None else f" (max_requests; of {answers:,} answers)"
        return [
            f"judge api: at most {most:,} requests{limit} to {self.config.base_url}, model {self.config.model}, "
            f"each of about {around} tokens and the answer; equal answers and what is kept from before cost none"
        ]

    def judge(self, asked: Sequence[Asked], *, behavior: Behavior, chat: ChatModel) -> Judging:
        """As replies come in; those that fail for good in this run are left out."""
        self._faults.clear()
        self._leaving.clear()
        self._refusal = ""
        self._refused, self._heard = 0, False
        most = len(asked) if self.config.max_requests is None else self.config.max_requests
        if len(asked) > most:
            self._faults[f"beyond max_requests={most}"] += len(asked) - most
        pool = ThreadPoolExecutor(self.config.requests_at_once)
        try:
            endpoint = self._endpoint()
            waiting = {
                pool.submit(self._patiently, endpoint, rating_request(behavior, one, reply=REPLY)): place
                for place, one in enumerate(asked[:most])
            }
            for done in as_completed(waiting):
                outcome = done.result()
                if isinstance(outcome, Judgement):
                    yield waiting[done], outcome
                else:
                    self._faults[outcome] += 1
        finally:
            self._leaving.set()  # wakes the workers that sleep between two attempts
            pool.shutdown(cancel_futures=True)

    def complaints(self) -> list[str]:
        """Each fault, and how many answers it left without a judgement."""
        return [f"{count} x {fault}" for fault, count in sorted(self._faults.items())]

    def finished(self, judgement: Judgement) -> bool:
        """Not where a thought was cut off, which earlier versions kept as a reply without a score."""
        return judgement.score is not None or without_thoughts(judgement.reply) is not None

    def _endpoint(self) -> Endpoint:
        config = self.config
        return Endpoint(
            base_url=config.base_url,
            key=os.environ.get(config.key_env, "") if config.key_env else "",
            timeout_s=config.timeout_s,
        )

    def _patiently(self, endpoint: Endpoint, request: str) -> Judgement | str:
        """One answer's judgement, or why there is none in this run."""
        own = self.config
        patience = Patience(attempts=own.attempts, first_wait_s=own.first_wait_s, leaving=self._leaving)
        try:
            return self._judgement(patience.ask(lambda: endpoint.complete(self._body(request))))
        except Refused as error:
            return self._give_up(error)
        except Failed as error:
            return self._refusal or str(error)

    def _judgement(self, reply: Reply) -> Judgement | str:
        """What was said; a reply that was cut off has not said it, unless its score stands there whole."""
        self._heard = True
        if (reply.cut and not whole_score(reply.text)) or without_thoughts(reply.text) is None:
            return f"the reply was cut off before its score; raise judges.api.max_tokens ({self.config.max_tokens})"
        return Judgement(score=parse_score(reply.text), reply=reply.text)

    def _give_up(self, error: Refused) -> str:
        """A wrong key is wrong for every answer: ask no more. So is whatever is refused before anything went well."""
        self._refused += 1
        if error.for_all or (self._refused >= REFUSED_IN_A_ROW and not self._heard):
            self._refusal = str(error)
            self._leaving.set()
        return str(error)

    def _body(self, request: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": request}]
        body: dict[str, Any] = {"model": self.config.model, "temperature": 0, "max_tokens": self.config.max_tokens}
        body["messages"] = messages
        if self.config.structured:
            body["response_format"] = {"type": "json_schema", "json_schema": SCHEMA}
        return body
