"""A steered chat model as lm-evaluation-harness knows models: its requests run on this package's engine.

    lm_eval.simple_evaluate(model=SteeredLM(chat, edits=caa.edits(Condition(layer=13, multiplier=1.0))), tasks=["piqa"])

By default a request's context is one user turn, and its continuation the assistant's answer: the base rewrites the
conversation, and a vector acts from the last token of the instruction on. Raw contexts are tokenized as lm-eval does
for its own `hf` models; a vector then acts from the context's last token on. Imported only where lm-eval is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM

from caa_bench.engine.generate import generate
from caa_bench.engine.likelihood import Forced, forced
from caa_bench.evaluators.perplexity import MESSAGE
from caa_bench.interventions.base import Intervention
from caa_bench.models.prompts import Prompt, chat_prompt, prompt_and_answer
from caa_bench.storage.files import content_seed

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel

UNDERSTOOD = frozenset({"until", "max_gen_toks", "do_sample", "temperature"})
"""What of a task's generation settings has a meaning here; the others say how to draw."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """One text to be scored: its prompt and the tokens of the answer."""

    prompt: Prompt
    answer: tuple[int, ...]


class SteeredLM(TemplateLM):
    """Answers lm-eval's three kinds of requests under one condition.

    Args:
        chat: the model.
        base: rewrites the conversation; what it attaches or edits is the caller's to do.
        edits: what is changed in the model's states, the base's own first.
        chat_template: False takes contexts as raw text.
        max_new_tokens: length limit of an answer where the task does not give its own.
        batch_size: most prompts of one forward.
        seed: of answers that are drawn; the same for the same context in every condition.
        share_prefix: False decodes every answer alone, as a check.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        base: Intervention | None = None,
        edits: Sequence[Edit] = (),
        chat_template: bool = True,
        max_new_tokens: int = 256,
        batch_size: int = 16,
        seed: int = 0,
        share_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.chat = chat
        self.base = base or Intervention()
        self.edits = list(edits)
        self.templated = chat_template
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.seed = seed
        self.share_prefix = share_prefix
        self.tokenizer = chat.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands in front of a raw text without context: the beginning, or the end where there is none."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Raw text as the tokenizer takes it, without a second beginning."""
        begin = self.tokenizer.decode([self.prefix_token_id])
        special = not string.startswith(begin) if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer.encode(string, add_special_tokens=special))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p of each continuation after its context, and whether greedy decoding would say it."""
        found = self._forced([self._pair(*request.args[:2]) for request in requests])
        return [(sum(one.log_probs), one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, those that are too long in parts that know nothing of each other."""
        parts = [list(self._windows(request.args[0])) for request in requests]
        found = iter(self._forced([one for own in parts for one in own]))
        return [sum(sum(next(found).log_probs) for _ in own) for own in parts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model says after each context, up to the task's stop texts."""
        said = [""] * len(requests)
        manners: dict[tuple[int, float], list[int]] = {}
        for n, request in enumerate(requests):
            manners.setdefault(self._manner(request.args[1]), []).append(n)
        for (tokens, temperature), places in manners.items():
            answers = generate(
                self.chat.model,
                [self._asked(requests[n].args[0]) for n in places],
                [self.edits],
                max_new_tokens=tokens,
                stop_ids=self.chat.stop_ids,
                temperature=temperature,
                seeds=[[self._seed(requests[n].args[0], turn)] for n, turn in _turns(places, requests)],
                batch_size=self.batch_size,
                share_prefix=self.share_prefix,
            )
            for n, own in zip(places, answers, strict=True):
                said[n] = self._text(own[0].ids, until=requests[n].args[1].get("until"))
        return said

    def problem(self, request: Instance) -> str | None:
        """Why this request cannot be answered; None where it can."""
        if request.request_type == "generate_until":
            tokens, _ = self._manner(request.args[1])
            sizes = [len(self._asked(request.args[0]).ids) + tokens]
        elif request.request_type == "loglikelihood":
            pair = self._pair(*request.args[:2])
            if not pair.answer:
                return "nothing of the continuation is left to be scored"
            sizes = [len(pair.prompt.ids) + len(pair.answer)]
        else:
            sizes = [len(one.prompt.ids) + 1 for one in self._windows(request.args[0])]
        room = self.chat.context
        return "longer than the model takes" if room is not None and max(sizes, default=0) > room else None

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The same for what lm-eval tokenized itself."""
        given = [Given(prompt=_ending(context), answer=tuple(answer)) for _, context, answer in requests]
        return [(sum(one.log_probs), one.greedy) for one in self._forced(given)]

    def _forced(self, given: Sequence[Given]) -> list[Forced]:
        prompts, answers = [one.prompt for one in given], [one.answer for one in given]
        return forced(self.chat.model, prompts, answers, self.edits, batch_size=self.batch_size)

    def _pair(self, context: str, continuation: str) -> Given:
        if self.templated:
            return self._answered(context, continuation.lstrip())
        if context:
            ids, answer = self._encode_pair(context, continuation)
            return Given(prompt=_ending(ids), answer=tuple(answer))
        answer = self.tok_encode(continuation, add_special_tokens=False)
        if answer[:1] == [self.prefix_token_id]:
            return Given(prompt=_ending(answer[:1]), answer=tuple(answer[1:]))
        return Given(prompt=_ending([self.prefix_token_id]), answer=tuple(answer))

    def _answered(self, asked: str, answer: str) -> Given:
        """The answer to one user turn: a template puts its own space in front."""
        messages = self.base.rewrite([{"role": "user", "content": asked}])
        prompt, said = prompt_and_answer(self.tokenizer, messages, answer)
        return Given(prompt=prompt, answer=said)

    def _windows(self, text: str) -> Iterator[Given]:
        """A whole text: the answer to a neutral message, or raw behind the beginning token."""
        room = self.chat.context
        if self.templated:
            whole = self._answered(MESSAGE, text)
            size = len(whole.answer) if room is None else max(1, room - len(whole.prompt.ids))
            for start in range(0, len(whole.answer), size or 1):
                yield Given(prompt=whole.prompt, answer=whole.answer[start : start + size])
            return
        ids = self.tok_encode(text)
        windows = utils.get_rolling_token_windows(
            token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=room or len(ids) + 1, context_len=1
        )
        for context, answer in map(utils.make_disjoint_window, windows):
            yield Given(prompt=_ending(context), answer=tuple(answer))

    def _asked(self, context: str) -> Prompt:
        if self.templated:
            return chat_prompt(self.tokenizer, self.base.rewrite([{"role": "user", "content": context}]))
        return _ending(self.tok_encode(context) if context else [self.prefix_token_id])

    def _manner(self, settings: Mapping[str, Any]) -> tuple[int, float]:
        """Most new tokens, and the temperature: 0 unless the task draws."""
        tokens = int(settings.get("max_gen_toks") or self.max_new_tokens)
        return tokens, float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0

    def _seed(self, context: str, turn: int) -> int:
        return content_seed([self.seed, context, turn])

    def _text(self, ids: Sequence[int], *, until: str | Sequence[str] | None) -> str:
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        text = text.lstrip() if self.templated else text  # the template's own space, as in front of a continuation
        ends = [until] if isinstance(until, str) else list(until or ())
        places = [text.index(end) for end in ends if end and end in text]
        return text[: min(places)] if places else text


def _ending(ids: Sequence[int]) -> Prompt:
    """A raw context: steered from its last token on."""
    return Prompt(ids=tuple(ids), first_position=len(ids) - 1)


def _turns(places: Sequence[int], requests: Sequence[Instance]) -> Iterator[tuple[int, int]]:
    """Each place, and how often its very request came before: repeats are draws of their own."""
    seen: dict[int, int] = {}
    for n in places:
        turn = seen.get(id(requests[n]), 0)
        seen[id(requests[n])] = turn + 1
        yield n, turn
