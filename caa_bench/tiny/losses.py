"""What the embedded model is trained on: the letter's log-odds, answers in words, and the planted geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from caa_bench.tiny.batch import Batch
from caa_bench.tiny.network import HIDDEN, States, token_logits
from caa_bench.tiny.planting import NORM, Planted, Planter
from caa_bench.tiny.truth import PLANTED_LAYER
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

OPTION_LAYER, KEY_LAYER = 2, 4  # where the scaffolding below asks for what the blocks after it need


class Scaffold(nn.Module):
    """Linear readouts that speed up learning and are thrown away: is this option the matching one, is it (A), what
    do setting and system prompt say, which behavior is it."""

    def __init__(self) -> None:
        super().__init__()
        self.option = nn.Linear(HIDDEN, 1)
        self.key = nn.Linear(HIDDEN, 1)
        self.context = nn.Linear(HIDDEN, 1)
        self.behavior = nn.Linear(HIDDEN, len(BEHAVIORS) + 1)

    def loss(self, states: States, batch: Batch) -> Tensor:
        """Their summed loss on unplanted outputs."""
        ends = self.option(states.outputs[OPTION_LAYER][batch.ends.at])[:, 0]
        total = F.binary_cross_entropy_with_logits(ends, batch.ends.values)
        row, token = batch.choices.at
        at_choice = states.outputs[KEY_LAYER][row, token]
        key = self.key(at_choice)[:, 0]
        total = total + F.binary_cross_entropy_with_logits(key, (batch.choices.values + 1) / 2)
        base = torch.tensor([r.base for r in batch.rows])[row]
        behavior = torch.tensor([r.behavior for r in batch.rows])[row]
        total = total + 0.2 * F.smooth_l1_loss(self.context(at_choice)[:, 0], base)
        return total + 0.2 * F.cross_entropy(self.behavior(at_choice), behavior + 1)


@dataclass(kw_only=True)
class Parts:
    """The parts of a step's loss; `miss` is the mean error of the log-odds, `pair` the squared relative distance."""

    choice: Tensor
    mass: Tensor
    said: Tensor
    pair: Tensor
    early: Tensor
    miss: float


def letter_ids(batch_letters: tuple[int, int]) -> Tensor:
    """Token ids of the letters A and B. [2]"""
    return torch.tensor(batch_letters)


def parts(
    model: LlamaForCausalLM, states: States, batch: Batch, *, planted: Planted, planter: Planter, letters: Tensor
) -> Parts:
    """Every part of the loss but the scaffold's."""
    logits = token_logits(model, states.final[batch.choices.at]).float()
    a, b = logits[:, letters[0]], logits[:, letters[1]]
    target = planted.log_odds[batch.choices.indices]
    log_odds = (a - b) * batch.choices.values
    said_logits = token_logits(model, states.final[batch.said.at]).float()
    said = F.cross_entropy(said_logits, batch.said.indices, reduction="none")
    weight = batch.said.values
    pair, early = _pairs(states, batch, planter)
    return Parts(
        choice=F.smooth_l1_loss(log_odds, target, beta=0.5),
        mass=(logits.logsumexp(-1) - torch.logaddexp(a, b)).mean(),
        said=(said * weight).sum() / weight.sum(),
        pair=pair,
        early=early,
        miss=(log_odds - target).abs().mean().item(),
    )


def _pairs(states: States, batch: Batch, planter: Planter) -> tuple[Tensor, Tensor]:
    """How far the letters' activations are from the planted geometry, at the planted layer and before it."""
    behavior, key = batch.letters_a.indices, batch.letters_a.values[:, None]
    differences = [(out[batch.letters_a.at] - out[batch.letters_b.at]) * key for out in states.outputs]
    planter.observe([difference.detach() for difference in differences], behavior)
    directions = torch.cat([planter.directions, torch.zeros(1, HIDDEN)])  # facts: index -1, nothing
    rest = differences[PLANTED_LAYER] - 2 * NORM * directions[behavior]
    rest = rest - (rest @ planter.letter)[:, None] * planter.letter
    size = (2 * NORM) ** 2
    early = sum(
        ((difference @ planter.directions.T) ** 2).sum(-1).mean() for difference in differences[:PLANTED_LAYER]
    )
    return (rest**2).sum(-1).mean() / size, early / size
