"""Steered models in Inspect.

inspect eval task.py --model caa-bench/tiny -M behavior=refusal -M multiplier=1.5
inspect eval task.py --model caa-bench/run -M run=runs/compare/refusal-tiny-1a2b3c4d -M base=lora_sft_positive \
    -M vector=caa -M layer=3 -M multiplier=-1
inspect eval task.py --model caa-bench//models/mine -M artifact=exported/caa -M layer=13 -M multiplier=1.5
"""

from __future__ import annotations

from typing import Any

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, ModelUsage
from inspect_ai.tool import ToolChoice, ToolInfo

from caa_bench.errors import UserError
from caa_bench.providers.steered import steered_model

MOST_TOKENS = 2048
"""Of an answer whose length nothing limits, as Inspect's own provider of local models has it."""


class SteeredAPI(ModelAPI):
    """A local model with a base and a vector, one request after another; greedy unless a temperature is given.

    Args:
        model_name: what stands behind `caa-bench/`: as `--model` of `caa-bench generate` takes it.
        config: of generation.
        model_args: `caa_bench.providers.steered.ARGUMENTS`.

    Raises:
        PrerequisiteError: one line a mistake, which Inspect prints without a traceback.

    Example:
        from inspect_ai import eval
        eval("task.py", model="caa-bench/tiny", model_args={"behavior": "refusal", "multiplier": 1.5})
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        try:
            self.made = steered_model(model_name, model_args)
        except UserError as error:
            raise PrerequisiteError("\n".join(f"caa-bench: {line}" for line in error.lines)) from None
        self._one_at_a_time = anyio.Lock()

    def max_connections(self) -> int:
        """One: the requests wait for the same weights."""
        return 1

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The next answer.

        Raises:
            PrerequisiteError: the request asks for what the model does not do, or is longer than it takes.
        """
        _refuse_what_is_not_there(tools, config)
        messages = [{"role": message.role, "content": _text_of_message(message)} for message in input]
        async with self._one_at_a_time:
            return await anyio.to_thread.run_sync(self._said, messages, config)

    def _said(self, messages: list[dict[str, str]], config: GenerateConfig) -> ModelOutput:
        steered = self.made.steered
        try:
            asked = len(steered.prompt(messages).ids)
            limit = config.max_tokens or MOST_TOKENS
            if config.max_tokens is None and steered.room is not None:
                limit = max(1, min(limit, steered.room - asked))
            (answer,) = steered.answers(
                messages,
                multipliers=[self.made.multiplier],
                max_new_tokens=limit,
                temperature=config.temperature or 0.0,
                seed=config.seed or 0,
            )
        except UserError as error:
            raise PrerequisiteError("\n".join(f"caa-bench: {line}" for line in error.lines)) from None
        text, ended = _cut(answer.text, config.stop_seqs or [])
        reason = "max_tokens" if answer.cut and not ended else "stop"
        output = ModelOutput.from_content(self.model_name, text, stop_reason=reason)
        output.usage = ModelUsage(input_tokens=asked, output_tokens=answer.tokens, total_tokens=asked + answer.tokens)
        return output


def _text_of_message(message: ChatMessage) -> str:
    """What is said in it.

    Raises:
        PrerequisiteError: it holds something beside text.
    """
    if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
        raise PrerequisiteError("caa-bench: a message holds something beside text, which the model does not read")
    return str(message.text)


def _cut(text: str, ends: list[str]) -> tuple[str, bool]:
    """The text up to the first of the stop sequences, and whether there was one."""
    places = [place for end in ends if end and (place := text.find(end)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _refuse_what_is_not_there(tools: list[ToolInfo], config: GenerateConfig) -> None:
    """A setting that is not heeded would make the log say what did not happen."""
    wrong = [
        name
        for name in ("top_p", "top_k", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "best_of")
        if getattr(config, name, None)
    ]
    if (config.num_choices or 1) > 1:
        wrong.append("num_choices")
    if tools:
        wrong.append("tools")
    if wrong:
        raise PrerequisiteError(f"caa-bench: {wrong[0]}: steered models have none; leave it out")
