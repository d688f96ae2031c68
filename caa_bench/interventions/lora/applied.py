"""Whether the adapter that `attach` applies is the one that was trained: compared on the logits of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.base import Condition

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from caa_bench.interventions.peft_arm import PeftArm


DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How peft's keys of the two factors of an update end."""
APART = 0.01
"""Share of the change of the logits by which the two ways may differ, beside rounding."""


def refuse_other_logits(arm: PeftArm, model: PreTrainedModel, ids: Sequence[int], *, trained: Tensor) -> None:
    """Refuse an adapter that was trained in vain: rows under it would equal the plain model's, unnoticed.

    Args:
        arm: fitted.
        ids: a prompt, without what the arm itself puts in front.
        trained: what `last_logits` of the trained model gave for it. [V]

    Raises:
        RuntimeError: attached, it changes nothing, or something else than the trained model.
    """
    import torch

    plain = last_logits(model, ids)
    with arm.attach(model, Condition()):
        applied = last_logits(model, arm.in_front(ids))
    if torch.equal(applied, plain):
        raise RuntimeError(f"{arm.label}: the trained adapter changes no logit; raise {arm.name}.learning_rate")
    rounding = (1e-4 if model.dtype == torch.float32 else 0.05) * float(plain.abs().max())
    apart, moved = float((applied - trained).abs().max()), float((trained - plain).abs().max())
    if not apart <= APART * moved + rounding:
        raise RuntimeError(
            f"{arm.label}: applied, the adapter gives logits that are {apart:.3g} from the trained model's, which "
            f"moved by {moved:.3g}; this architecture reads weights past their modules: choose other target_modules"
        )


def last_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """The logits behind one prompt, without dropout. [V] fp32 on the CPU, V the size of the vocabulary"""
    import torch

    from caa_bench.engine.positions import batch_of
    from caa_bench.models.blocks import frozen, input_device
    from caa_bench.models.prompts import Prompt

    with frozen(model), batch_of([Prompt(ids=tuple(ids), first_position=len(ids) - 1)]):
        device = input_device(model.get_base_model() if hasattr(model, "get_base_model") else model)
        logits: Tensor = model(input_ids=torch.tensor([list(ids)], device=device)).logits[0, -1]
    return logits.float().cpu()
