"""Contrastive weight steering (Fierro & Roger 2025, arXiv 2511.05408): a LoRA less its opposite, at a dose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.lora_sft import LoraSFT
from caa_bench.interventions.parts import Ingredient

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs


class ContrastiveLora(LoraSFT):
    """W + multiplier * (dW_positive - dW_negative): what both finetunes learn alike, the test's format, cancels.

    dW are the updates of `lora_sft_positive` and `lora_sft_negative` with these settings, which a run shares with
    those arms. A negative dose pushes away from the behavior. The difference is kept as one LoRA of twice the rank, so
    that `PeftModel.from_pretrained` reads it. The paper trains on answers in words; here the target is lora_sft's.
    """

    name = "contrastive_lora"
    variants = ()  # type: ignore[assignment]  # one for both sides

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self._sides: tuple[LoraSFT, LoraSFT] | None = None

    def ingredients(self, pairs: Pairs) -> list[Ingredient]:
        """Both finetunes."""
        if self._sides is None:
            own = {key: getattr(self.config, key) for key in LoraSFT.Config.__dataclass_fields__}
            plain = replace(LoraSFT.Config(**own), doses=(1.0,))
            self._sides = (LoraSFT(plain, variant="positive"), LoraSFT(plain, variant="negative"))
        return [Ingredient(intervention=side, pairs=pairs) for side in self._sides]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Take over what both finetunes learned, or let them learn; then the difference as one adapter."""
        import torch

        from caa_bench.interventions.lora.applied import DOWN

        for part in self.ingredients(pairs):
            if getattr(part.intervention, "adapter", None) is None:
                part.intervention.fit(model, tokenizer, pairs)
        toward, away = (part.intervention for part in self.ingredients(pairs))
        assert isinstance(toward, LoraSFT)  # noqa: S101 - for the type checker
        assert isinstance(away, LoraSFT)  # noqa: S101
        plus, minus = toward.adapter or {}, away.adapter or {}
        self.adapter = {
            key: torch.cat([plus[key], minus[key]]) if key.endswith(DOWN) else torch.cat([plus[key], -minus[key]], 1)
            for key in plus
        }
        twice = {"r": 2 * self.config.rank, "lora_alpha": 2 * self.config.alpha}  # at the same scale alpha / rank
        self.peft_settings = {**toward.peft_settings, **twice}
        self.training = {key: value for key, value in toward.training.items() if key != "held_out_loss"}
        self.training = {**self.training, "held_out_loss": []}
        self._sides = None  # another fit is another model or other pairs
