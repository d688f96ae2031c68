"""Where answers in words are generated, if not here: the recipe section `open_ended.server`. Asks no server itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caa_bench.errors import too_few
from caa_bench.judges.patience import server_problems, waiting_problems


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that steers: EasySteer on vLLM, or `caa-bench serve`.

    Args:
        base_url: up to and including `/v1`; "" generates here.
        model: the model's name on that server; the measured model's own weights.
        key_env: the environment variable that holds the key; "" where the server wants none.
        requests_at_once: answers asked for at the same time.
        timeout_s: seconds without a reply after which a request counts as failed.
        attempts: tries an answer gets in one run.
        first_wait_s: seconds before the second try, doubled before each later one; a server's own wish goes first.
        check_questions: answered there and here before the server is trusted.
        check_nats: how far a token's log-probability there may be from the one here, and a token from there from the
            likeliest one here where both first differ; servers compute in another order and break near ties otherwise.
    """

    base_url: str = ""
    model: str = ""
    key_env: str = ""
    requests_at_once: int = 8
    timeout_s: float = 300.0
    attempts: int = 5
    first_wait_s: float = 1.0
    check_questions: int = 4
    check_nats: float = 0.25

    def __post_init__(self) -> None:
        lines = too_few({name: getattr(self, name) for name in ("requests_at_once", "attempts", "check_questions")})
        lines += waiting_problems(timeout_s=self.timeout_s, first_wait_s=self.first_wait_s)
        if not 0 <= self.check_nats < float("inf"):
            lines.append(f"check_nats: {self.check_nats:g} is no difference; give 0 or more")
        if lines:
            raise ValueError("\n".join(lines))

    def settings(self) -> dict[str, Any]:
        """What decides an answer; nothing where it is generated here."""
        return {"server": {"base_url": self.base_url, "model": self.model}} if self.base_url else {}

    def costs(self) -> str:
        """Where answers come from, for the line that counts them; "" for here."""
        if not self.base_url:
            return ""
        return (
            f", by {self.model} at {self.base_url}; on finetuned bases, and under what is no addition to a block's "
            "output, here"
        )

    def problems(self) -> list[str]:
        """One line for each thing that cannot work, found without asking it."""
        return server_problems(self, section="open_ended.server") if self.base_url else []
