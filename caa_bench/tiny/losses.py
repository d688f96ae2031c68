"""What the embedded model is trained on: the letter's log-odds, answers in words, and the planted geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from caa_bench.tiny.batch import Batch
from caa_bench.tiny.network import HIDDEN, States, token_logits
from caa_bench.tiny.planting import LETTER_NORM, NORM, Planted, Planter
from caa_bench.tiny.rows import Plant
from caa_bench.tiny.truth import PLANTED_LAYER
from caa_bench.tiny.words import BEHAVIORS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

OPTION_LAYER, KEY_LAYER = 2, 4  # where the scaffolding below asks for what the blocks after it need


class Scaffold(nn.Module):
    """Linear readouts that speed up learning and are thrown away: is this option the matching one, is it (A), what
    are the log-odds that the truth asks for, which behavior is it."""

    def __init__(self) -> None:
        super().__init__()
        self.option = nn.Linear(HIDDEN, 1)
        self.key = nn.Linear(HIDDEN, 1)
        self.stance = nn.Linear(HIDDEN, 1)
        self.behavior = nn.Linear(HIDDEN, len(BEHAVIORS) + 1)

    def loss(self, states: States, batch: Batch, planted: Planted) -> dict[str, Tensor]:
        """Their losses, by name, on what blocks put out before anything is planted there."""
        ends = self.option(states.outputs[OPTION_LAYER][batch.ends.at])[:, 0]
        row, token = batch.choices.at
        at_choice = states.outputs[KEY_LAYER][row, token]
        key = self.key(at_choice)[:, 0]
        # Known before the directions are read: whose direction counts hangs on it.
        topic = self.behavior(states.outputs[PLANTED_LAYER][row, token])
        behavior = torch.tensor([r.behavior for r in batch.rows])[row]
        deciding = torch.cat([at_choice, states.outputs[KEY_LAYER][batch.answers.at]])
        stance = planted.log_odds[torch.cat([batch.choices.indices, batch.answers.indices])]
        cross_entropy = F.binary_cross_entropy_with_logits
        return {
            "option": cross_entropy(ends, batch.ends.values),
            "key": cross_entropy(key, (batch.choices.values + 1) / 2),
            "stance": F.smooth_l1_loss(self.stance(deciding)[:, 0], stance, beta=0.5),
            "behavior": 0.3 * F.cross_entropy(topic, behavior + 1),
        }


@dataclass(kw_only=True)
class Parts:
    """The parts of a step's loss; `misses` are mean errors of the log-odds, for the log."""

    choice: Tensor
    mass: Tensor
    said: Tensor
    pair: Tensor
    early: Tensor
    misses: dict[str, float]


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
        misses=_misses(log_odds - target, batch),
    )


def _misses(error: Tensor, batch: Batch) -> dict[str, float]:
    """Mean size of the log-odds' error, by kind of group."""
    kinds: dict[str, list[float]] = {}
    for size, group in zip(error.detach().abs().tolist(), batch.choices.index, strict=True):
        plant, row = batch.groups[group]
        behavior = batch.rows[row].behavior
        kinds.setdefault(_plant_kind(plant, behavior), []).append(size)
    return {kind: sum(sizes) / len(sizes) for kind, sizes in kinds.items()}


def _plant_kind(plant: Plant, behavior: int) -> str:
    if behavior < 0:
        return "fact"
    if not plant.doses:
        return "noise" if plant.noise else "plain"
    if plant.layer != PLANTED_LAYER:
        return "elsewhere"
    return "others" if plant.doses.keys() - {behavior} else "dosed"


def _pairs(states: States, batch: Batch, planter: Planter) -> tuple[Tensor, Tensor]:
    """How far the letters' activations are from the planted geometry, at the planted layer and before it."""
    behavior, key = batch.letters_a.indices, batch.letters_a.values[:, None]
    differences = [(out[batch.letters_a.at] - out[batch.letters_b.at]) * key for out in states.outputs]
    planter.observe([difference.detach() for difference in differences], behavior)
    directions = torch.cat([planter.directions, torch.zeros(1, HIDDEN)])  # facts: index -1, nothing
    level = torch.tensor([batch.rows[row].level for row in batch.letters_a.row])
    wanted = directions[behavior] + LETTER_NORM * planter.letters[level] * key + planter.items[level]
    rest = differences[PLANTED_LAYER] - 2 * NORM * wanted
    size = (2 * NORM) ** 2
    early = sum(((difference @ planter.directions.T) ** 2).sum(-1).mean() for difference in differences[:PLANTED_LAYER])
    return (rest**2).sum(-1).mean() / size, early / size
