"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): a few learned embeddings in front of every prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from caa_bench.interventions.base import Condition
from caa_bench.interventions.peft_arm import PeftArm
from caa_bench.interventions.sft_checks import check_training
from caa_bench.models.layers import Layers
from caa_bench.models.virtual_tokens import VirtualToken, virtual_message, virtual_tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.positions import Positions
    from caa_bench.models.prompts import Message, Prompt

LEARNED = "prompt_embeddings"
"""What peft calls them in an adapter's file."""


class SoftPrompt(PeftArm):
    """[P; X]: k learned embeddings P in front of the embeddings X of the whole prompt; no weight of the model changes.

    Variant `positive` learns the matching answers, `negative` the others, on the rows of `lora_sft` and with its loss.
    The places are virtual tokens of the prompt, so that positions, the shared prefix and what stands on top are exact;
    as a base it costs what a system prompt of k tokens does. It has no dose. It begins as embeddings of tokens from the
    training questions (section 3.2: "sampled vocabulary"). Kept in peft's format: `PeftModel.from_pretrained` reads it.

    Example:
        >>> from caa_bench.interventions.soft_prompt import SoftPrompt
        >>> SoftPrompt(tokens=8, variant="negative").label
        'soft_prompt_negative'
    """

    name = "soft_prompt"
    variants = ("positive", "negative")
    grid: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `soft_prompt`.

        Args:
            tokens: k, how many embeddings.
            target / learning_rate / epochs / batch_size / max_pairs / seed: as for `lora_sft`; so few numbers want a
                far higher rate.
        """

        tokens: int = 20
        target: Literal["letter", "letter_and_text", "text"] = "letter"
        learning_rate: float = 3e-2
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            if self.tokens < 1:
                raise ValueError(f"tokens: {self.tokens} is too small; give 1 or more")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)

    @property
    def acts(self) -> str:
        """Where it acts, for its card."""
        return f"{self.config.tokens} learned embeddings in front of the whole prompt; the model's weights stay"

    def conditions(self, layers: Layers) -> list[Condition]:
        """One: it has neither layer nor dose."""
        return [Condition()]

    def rewrite(self, messages: Sequence[Message]) -> list[Message]:
        """With its places, which come before everything."""
        return [virtual_message(self.label, self.config.tokens), *messages]

    def in_front(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Its virtual tokens, then the prompt. [k + T]"""
        return (*virtual_tokens([self.label] * self.config.tokens, ids[0]), *ids)

    def check_slices(self) -> list[str]:
        """Its embeddings take places that the ranks look up together, which was not tried."""
        return ["soft_prompt: it does not act on a model in slices (loading.parallel); take it out, or use device_map"]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the embeddings; nine tenths of the items are trained on.

        Raises:
            RuntimeError: the prompt as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user; the state is kept.
        """
        import torch
        from peft import PromptTuningConfig

        drawn = self._drawn(tokenizer, pairs)

        def begin(wrapped: Any) -> None:
            embed = wrapped.get_base_model().get_input_embeddings()
            learned = wrapped.prompt_encoder["default"].embedding.weight
            with torch.no_grad():
                learned.copy_(embed(torch.tensor(drawn, device=learned.device)))

        config = PromptTuningConfig(num_virtual_tokens=self.config.tokens, task_type="CAUSAL_LM")
        self.learn_answers(model, tokenizer, pairs, config, begin=begin)

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """The learned embeddings at the virtual tokens of the prompts that `rewrite` made room in.

        Raises:
            ValueError: inside, in a forward of prompts that nobody names; `batch_of(prompts)` does.
        """
        from caa_bench.engine.positions import tracked
        from caa_bench.models.blocks import base_model
        from caa_bench.models.padding import may_pad

        if self.adapter is None:
            raise RuntimeError(f"{self.label} has no embeddings yet: call fit(...) or load(folder) first")
        if not condition.multiplier:  # nothing of it
            yield model
            return
        may_pad(model)  # tried once a model, on words that are no prompt of anybody's
        module: Any = base_model(model)
        with tracked(model) as positions:
            filled = _Filled(self.label, self.adapter[LEARNED], positions)
            hook = module.get_input_embeddings().register_forward_hook(filled)
            try:
                yield model
            finally:
                hook.remove()

    def _drawn(self, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> list[int]:
        """Ids of the tokens that the embeddings begin as. [k]"""
        asked = [pair.question for pair in list(pairs)[: self.config.max_pairs]]
        used = sorted({token for text in asked for token in tokenizer(text, add_special_tokens=False)["input_ids"]})
        return random.Random(self.config.seed).choices(used, k=self.config.tokens)  # noqa: S311 - a draw, not a secret


class _Filled:
    """Hook of the embedding: another embedding at each of the owner's virtual tokens.

    Args:
        owner: its label.
        learned: [k, D]
    """

    def __init__(self, owner: str, learned: Tensor, positions: Positions) -> None:
        self.owner, self.learned, self.positions = owner, learned, positions
        self._known: tuple[tuple[Prompt, ...], Tensor] | None = None

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """[B, T, D], B rows of T tokens"""
        import torch

        places, absolute = self._places(), self.positions.absolute
        places = places.repeat_interleave(len(output) // len(places), 0).to(output.device)
        absolute = absolute.expand(len(output), -1).to(output.device)
        width = places.shape[1]
        place = torch.where(absolute < width, places.gather(1, absolute.clamp(min=0, max=width - 1)), -1)
        if self.positions.real is not None:
            place = torch.where(self.positions.real.to(output.device), place, -1)
        if self.learned.device != output.device:
            self.learned = self.learned.to(output.device)
        return torch.where((place >= 0)[..., None], self.learned[place.clamp(min=0)].to(output.dtype), output)

    def _places(self) -> Tensor:
        """Which of the owner's tokens stands at each position of each prompt of the batch, -1 for none. [B, W]"""
        import torch

        from caa_bench.engine.positions import current_batch

        batch = current_batch()
        if batch is None:
            raise ValueError(
                f"{self.owner}: which tokens are virtual is not known; name the prompts: batch_of(prompts)"
            )
        if self._known is None or self._known[0] is not batch:
            own = [[self._place(token) for token in prompt.ids] for prompt in batch]
            width = 1 + max((n for row in own for n, place in enumerate(row) if place >= 0), default=0)
            rows = [(row + [-1] * width)[:width] for row in own]
            self._known = (batch, torch.tensor(rows))
        return self._known[1]

    def _place(self, token: int) -> int:
        return token.place if isinstance(token, VirtualToken) and token.owner == self.owner else -1
