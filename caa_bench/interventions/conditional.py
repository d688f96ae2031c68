"""Conditional steering (Lee et al. 2024, arXiv 2409.05907, section 3): CAA where a gate says the prompt is about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition
from caa_bench.interventions.pair_vectors import PairVector
from caa_bench.interventions.parts import OnCard
from caa_bench.models.layers import DEFAULT_DEPTH, Layers

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit


class Conditional(PairVector):
    """h + multiplier * v where w . h + b > 0, else h; v is CAA's vector, w and b a probe at the same layer.

    The probe tells the own pairs' questions from those of `others`, at every position from the last token of the
    instruction up to the answer letter. Position rule: both act from the last token of the instruction on, and the gate
    is read anew at each position. The paper takes PCA of mean activations over the prompt and a threshold on the cosine
    at one layer, decides once a prompt, and steers other layers; a logistic probe at the steered layer is a function of
    one position's state, so it runs on a shared prefix and needs no threshold to be searched.
    """

    name = "conditional"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `conditional`.

        Args:
            others: behaviors whose questions are to be left alone; the measured one is left out, another is needed.
            inverse_penalty: of the gate's probe; smaller is a smoother gate.
        """

        others: tuple[str, ...] = ()
        inverse_penalty: float = 1.0

    def check(self, layers: Layers) -> list[str]:
        """A gate without anything to tell apart."""
        mistakes = super().check(layers)
        if not self.config.others:
            mistakes.append(f"{self.name}.others: an empty list; name behaviors whose questions are to be left alone")
        return mistakes

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """CAA's vector, and the gate in every layer.

        Raises:
            UserError: no other behaviors are named.
        """
        import numpy as np
        import torch

        from caa_bench.interventions.probes import fit_probe

        names = self._others(pairs)
        super().fit(model, tokenizer, pairs)
        own = steered_states(model, tokenizer, pairs)
        others = np.concatenate([steered_states(model, tokenizer, pairs.of(name)) for name in names])
        gates, fires = [], []
        for layer in range(own.shape[1]):
            rows = np.concatenate([own[:, layer], others[:, layer]]).astype(np.float64)
            first = np.arange(len(rows)) < len(own)
            probe = fit_probe(rows, first, inverse_penalty=self.config.inverse_penalty)
            open_at = rows @ probe.weights + probe.bias > 0
            gates.append([*probe.weights, probe.bias])
            fires.append([open_at[first].mean(), open_at[~first].mean()])
        self.beside = {"gate": torch.tensor(gates), "fires": torch.tensor(fires)}

    def direction_of(self, matching: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The mean difference. [D]"""
        import numpy as np

        return np.asarray((matching - other).mean(axis=0))

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One gated addition."""
        from caa_bench.engine.changes import Add, Gate
        from caa_bench.engine.edit import Edit

        if condition.layer is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        # The vector first: it says that nothing is fitted yet, which a dry run asks before there is a gate.
        push = Add(condition.multiplier * self.fitted()[condition.layer])
        gate = self.beside["gate"][condition.layer]
        return [Edit(condition.layer, Gate(gate[:-1], push, bias=float(gate[-1])))]

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """The own pairs and the others'.

        Raises:
            UserError: no behavior but the measured one is named.
        """
        return {name: pairs.of(name).key for name in sorted({pairs.behavior, *self._others(pairs)})}

    def _others(self, pairs: Pairs) -> list[str]:
        others = [name for name in self.config.others if name != pairs.behavior]
        if not others:
            raise UserError(
                f"{self.name}.others: names no behavior but {pairs.behavior}; name some whose questions are to be left "
                "alone"
            )
        return others

    @property
    def acts(self) -> str:
        """One block, from the end of the instruction on, where the gate is open."""
        return (
            "Added to the output of ONE decoder block (counted from 0), times the multiplier, at each position from "
            "the last token of the instruction on at which a linear probe of the state is above 0"
        )

    def facts_for_card(self, layer: int | None) -> OnCard:
        """With how often the gate was open on the questions that it was fitted on."""
        told = super().facts_for_card(layer)
        at = round(DEFAULT_DEPTH * len(self.fitted())) if layer is None else layer
        own, others = self.beside["fires"][at].tolist()
        fact = f"open at {own:.0%} of the own questions' positions, at {others:.0%} of the others', both fitted on"
        return OnCard(condition=told.condition, facts={**told.facts, f"gate at layer {at}": fact})


def steered_states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> np.ndarray:
    """Every block's output from the last token of the instruction up to the answer letter, of each question. [N, L, D]

    N counts positions: some for each question.
    """
    import numpy as np
    import torch

    from caa_bench.engine.batches import batched, pad
    from caa_bench.engine.capture import kept_outputs
    from caa_bench.interventions.vectors import letter_prompts
    from caa_bench.models.blocks import decoder, frozen, input_device

    found = []
    prompts = letter_prompts(tokenizer, pairs)
    for group in batched(prompts, 16):
        chosen = [prompts[row] for row in group]
        padded = pad([prompt.ids for prompt in chosen], input_device(model))
        with frozen(model), kept_outputs(model) as kept:
            decoder(model)(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=False
            )
        steered = len(chosen[0].ids) - chosen[0].first_position  # the same in all of a group
        last = torch.stack([block[:, -steered:] for block in kept], dim=2)  # [B, S, L, D]
        found.append(last.flatten(0, 1).numpy())
    return np.concatenate(found)
