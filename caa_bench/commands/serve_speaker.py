"""Requests -> answers of one steered model, one at a time. Knows nothing of HTTP."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from caa_bench.errors import UserError
from caa_bench.interventions import Condition

if TYPE_CHECKING:
    from caa_bench.commands.serve_doses import Dose
    from caa_bench.commands.serve_requests import Asked
    from caa_bench.commands.session import Session
    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel
    from caa_bench.models.prompts import Prompt


class Leaving(Exception):
    """The server is being stopped."""


class _Enough(Exception):
    """A stop text has come."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A request that can be answered: everything that can be wrong with it was looked for.

    Args:
        asked: the request.
        prompt: its tokens.
        edits: what is added on top of the base.
        seed: of what is drawn.
    """

    asked: Asked
    prompt: Prompt
    edits: Sequence[Edit]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An answer.

    Args:
        text: up to the first stop text, without special tokens and space around it.
        ids / log_probs: its tokens, a stop text's own included, and what each was given.
        ended: `stop` or `length`.
    """

    text: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    ended: Literal["stop", "length"]


class Words:
    """Tokens -> text piece by piece; together the pieces are the answer's text.

    Held back is what the next token may still change: space at the end, half a character, what may begin a stop text.

    Args:
        chat: whose tokens they are.
        stop: texts that end the answer.
    """

    def __init__(self, chat: ChatModel, stop: Sequence[str] = ()) -> None:
        self._chat, self._stop = chat, tuple(stop)
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.said = ""
        self.ended = False

    def take(self, token: int, log_prob: float) -> str:
        """What is certain with this token and was not before."""
        self.ids.append(token)
        self.log_probs.append(log_prob)
        text = self._text()
        self.ended = any(end in text for end in self._stop)
        return self._more(self._before_stop(text) if self.ended else self._certain(text))

    def rest(self) -> str:
        """What was held back to the end."""
        return self._more(self._before_stop(self._text()).strip())

    def _text(self) -> str:
        return str(self._chat.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _before_stop(self, text: str) -> str:
        return text[: min((text.index(end) for end in self._stop if end in text), default=len(text))].rstrip()

    def _certain(self, text: str) -> str:
        text = text.rstrip("\ufffd")
        begun = (n for end in self._stop for n in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:n]))
        return text[: len(text) - max(begun, default=0)].rstrip()

    def _more(self, text: str) -> str:
        text = text.lstrip()
        more = text[len(self.said) :] if text.startswith(self.said) else ""
        self.said += more
        return more


class Speaker:
    """Answers requests with a session's model, one at a time: an adapter changes the model while it speaks.

    Args:
        session: the model with its bases and vectors.
    """

    def __init__(self, session: Session) -> None:
        self.chat = session.chat
        self._session = session
        self._model = threading.Lock()
        self._leaving = threading.Event()
        _ = self.chat.model

    def ready(self, asked: Asked) -> Ready:
        """The request as tokens and edits.

        Raises:
            UserError: a prompt that cannot be made, or a vector that does not fit.
        """
        from caa_bench.engine.easysteer import read_steering

        layers = self.chat.loaded_layers()
        steering = read_steering(asked.steering, layers=layers.count, hidden=layers.hidden)
        if steering.edits and self._session.bases[asked.steered.base].edits(Condition()):
            raise UserError(f"steering: base {asked.steered.base} steers by itself; ask for another base")
        edits = [*steering.edits, *(edit for dose in asked.steered.doses for edit in self._edits(dose))]
        prompt = self._prompt(asked, steered=steering.steered)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return Ready(asked=asked, prompt=prompt, edits=edits, seed=seed)

    def say(self, ready: Ready, *, tell: Callable[[str], None] | None = None) -> Spoken:
        """The answer, once all requests before it have theirs.

        Args:
            tell: called with each piece of text; what it raises ends the answer.

        Raises:
            UserError: the conversation is longer than the model takes.
            Leaving: the server is being stopped.
        """
        from caa_bench.commands.continuing import continuations

        asked = ready.asked
        words = Words(self.chat, asked.stop)

        def take(token: int, log_prob: float) -> None:
            if self._leaving.is_set():
                raise Leaving
            piece = words.take(token, log_prob)
            if tell is not None and piece:
                tell(piece)
            if words.ended:
                raise _Enough

        ended: Literal["stop", "length"] = "stop"
        with self._model:
            if self._leaving.is_set():
                raise Leaving
            try:
                (one,) = continuations(
                    self.chat,
                    ready.prompt,
                    [ready.edits],
                    base=self._session.bases[asked.steered.base],
                    max_new_tokens=asked.max_new_tokens or self._session.settings.max_new_tokens,
                    temperature=asked.temperature,
                    seeds=[[ready.seed]],
                    stop_ids=[*self.chat.stop_ids, *asked.stop_ids],
                    tell=take,
                )
                ended = one.ended
            except _Enough:
                pass
        if (piece := words.rest()) and tell is not None:
            tell(piece)
        return Spoken(text=words.said, ids=tuple(words.ids), log_probs=tuple(words.log_probs), ended=ended)

    def leave(self) -> None:
        """End the answer that is being said, refuse those that wait, and come back when nobody speaks."""
        self._leaving.set()
        with self._model:
            pass

    def _prompt(self, asked: Asked, *, steered: int) -> Prompt:
        from caa_bench.models.prompts import Prompt, chat_prompt, encode

        if asked.prompt is None:
            prompt = chat_prompt(self.chat.tokenizer, self._session.bases[asked.steered.base].rewrite(asked.messages))
            steered = len(prompt.ids) - prompt.first_position if asked.steering is None else steered
        else:
            given = asked.prompt
            prompt = Prompt(
                ids=encode(self.chat.tokenizer, given) if isinstance(given, str) else given, first_position=0
            )
        most = self.chat.model.get_input_embeddings().num_embeddings
        if not prompt.ids or max(prompt.ids) >= most:
            raise UserError(f"prompt: expected token ids below {most}, at least one")
        if steered > len(prompt.ids):
            raise UserError(f"steering: {steered} positions of a prompt of {len(prompt.ids)} tokens; give fewer")
        return Prompt(ids=prompt.ids, first_position=len(prompt.ids) - steered)

    def _edits(self, dose: Dose) -> Sequence[Edit]:
        """None at 0, so that the unsteered answer is the unchanged model's, bit for bit."""
        if not dose.multiplier:
            return []
        vector = self._session.vectors[dose.vector]
        try:
            edits = vector.edits(Condition(multiplier=dose.multiplier, layer=dose.layer))
        except (IndexError, KeyError, ValueError):
            edits = None
        if edits is None:
            raise UserError(f"caa_bench.vector: {dose.vector} has nothing to add at layer {dose.layer}; name another")
        return edits
