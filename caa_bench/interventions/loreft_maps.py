"""One low-rank map a layer (`engine.low_rank`), and what a batch of letter prompts says of each of them.

Shapes: L layers, r rank, D hidden size, N states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.interventions.gradient_steps import LAYERS_AT_ONCE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from caa_bench.models.prompts import ChoicePrompt


@dataclass(frozen=True, kw_only=True)
class Maps:
    """h + dose * R^T (A h + b) in each layer.

    Args:
        rotate: R, orthonormal rows. [L, r, D]
        reads: A = W - R. [L, r, D]
        bias: b. [L, r]
    """

    rotate: Tensor
    reads: Tensor
    bias: Tensor

    def moved(self, states: Tensor) -> Tensor:
        """A h + b: how far along each of its directions a state is moved at dose 1. [N, L, D] -> [L, N, r]"""
        return states.transpose(0, 1) @ self.reads.transpose(1, 2) + self.bias[:, None]

    def ordered(self, states: Tensor) -> Maps:
        """The same maps with the directions in the order of how far these states are moved along them.

        R^T (A h + b) is the same in every basis of the r directions. In this one the first direction is that of nearly
        all of the shift where the shift hardly depends on the state, and its sign is the shift's.

        Args:
            states: [N, L, D]
        """
        import torch

        moved = self.moved(states).double()
        basis = torch.linalg.eigh(moved.transpose(1, 2) @ moved).eigenvectors.flip(-1).transpose(1, 2)  # [L, r, r]
        signs = (basis @ moved.mean(dim=1)[..., None]).sign()
        basis = (basis * torch.where(signs == 0, 1.0, signs)).float()
        return Maps(rotate=basis @ self.rotate, reads=basis @ self.reads, bias=(basis @ self.bias[..., None])[..., 0])

    def scaled(self, factors: Tensor) -> Maps:
        """Each layer's shift times its factor. [L]"""
        wide = factors[:, None]
        return Maps(rotate=self.rotate, reads=self.reads * wide[..., None], bias=self.bias * wide)


def mean_shift(maps: Maps, states: Tensor) -> Tensor:
    """How far these states [N, L, D] are moved at dose 1, in the mean. [L]"""
    return maps.moved(states).norm(dim=-1).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a batch says of the maps.

    Args:
        losses: cross-entropy of the letter over the vocabulary, mean over the prompts. [L]
        gradient: of their sum over the maps' `rotate`, `reads` and `bias`; empty where it was not wanted.
    """

    losses: Tensor
    gradient: tuple[Tensor, ...]


def letter_losses(
    model: PreTrainedModel, prompts: Sequence[ChoicePrompt], maps: Maps, *, dose: float, gradient: bool = False
) -> Told:
    """The loss of each prompt's first candidate (of the second at a dose below 0) under each layer's map alone."""
    import torch

    from caa_bench.engine.edit import Edit
    from caa_bench.engine.forwards import full_logits, shared_logits
    from caa_bench.engine.low_rank import LowRank
    from caa_bench.engine.pack import Rows
    from caa_bench.engine.positions import batch_of
    from caa_bench.engine.prefix import split
    from caa_bench.engine.sharing import can_share
    from caa_bench.models.blocks import frozen

    letters = torch.tensor([prompt.candidates[0 if dose > 0 else 1] for prompt in prompts])
    count, shared = len(maps.bias), can_share(model, prompts)
    losses, found = [], []
    with frozen(model), batch_of(prompts):
        prefix = split(model, prompts, suffix=len(prompts[0].ids) - prompts[0].first_position) if shared else None
        for some in torch.arange(count).split(LAYERS_AT_ONCE if shared else 1):
            own = [one.detach()[some].requires_grad_(gradient) for one in (maps.rotate, maps.reads, maps.bias)]
            with torch.set_grad_enabled(gradient):
                conditions = [
                    [Edit(layer, LowRank(rotate, reads, bias, dose))]
                    for layer, rotate, reads, bias in zip(some.tolist(), *own, strict=True)
                ]
                if prefix is not None:
                    rows = Rows(conditions, count)
                    said = shared_logits(model, prefix, rows)[:, rows.row_of]
                else:
                    said = full_logits(model, prompts, conditions[0])[:, None]
                missed = torch.nn.functional.cross_entropy(
                    said.flatten(0, 1), letters.to(said.device).repeat_interleave(said.shape[1]), reduction="none"
                )
                each = missed.view(said.shape[:2]).mean(dim=0)
                total = each.sum()
            losses.append(each.detach().cpu())
            if gradient:
                found.append([one.cpu() for one in torch.autograd.grad(total, own)])
    return Told(losses=torch.cat(losses), gradient=tuple(torch.cat(parts) for parts in zip(*found, strict=True)))
