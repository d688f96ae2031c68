"""LoReFT (Wu et al. 2024, arXiv 2404.03592, section 3): a low-rank map of the state, learned by gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from caa_bench.errors import too_few
from caa_bench.interventions.activations import exchanged_mean
from caa_bench.interventions.base import Condition
from caa_bench.interventions.loreft_maps import Maps, mean_shift
from caa_bench.interventions.pair_vectors import PairVector, sizes
from caa_bench.interventions.parts import OnCard
from caa_bench.models.layers import DEFAULT_DEPTH, Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.interventions.activations import PairActivations

LOOKED_AT = 64
"""Pairs whose states say how far a map moves them."""


class LoReFT(PairVector):
    """h + multiplier * R^T (W h + b - R h), R with orthonormal rows, learned on the cross-entropy of one letter a pair.

    Position rule: acts on one block from the last token of the instruction on, while it is learned as when it is used;
    a function of the state at one position, it runs on a shared prefix. Every layer learns a map of its own, alone. At
    each step the dose is drawn from 1 and -1: at 1 the matching letter is learned and at -1 the other, so that a
    negative dose is one that was trained for. The paper has no dose and learns one side; it edits the first and last
    few tokens of the prompt in many layers at once, and begins with random W, where here W = R and b = 0: no shift.
    R is kept orthonormal by a QR decomposition. Nine tenths of the items are trained on. Multiplier 1 is as it was
    learned; with `norm: caa` the mean shift of each layer is as long as CAA's vector there. ReFT-r1 (arXiv 2501.17148)
    reads the mean of the top activations of a whole prompt and so is no function of one position's state.

    The vectors are the rows of R, ordered by how far the training prompts are moved along them. [L, r, D] A random
    placebo moves each state exactly as far, along other directions; a shuffled one along those that such labels give,
    in the mean as far as their map does.
    """

    name = "loreft"
    fits_alone = True

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `loreft`.

        Args:
            rank: rows of R, 1 or more.
            learning_rate: the length of a step, as a share of CAA's vector's; falls to 0 in a line.
            epochs / batch_size: passes over the pairs, and pairs a step.
            seed: of R at the start, of the order, the doses and the items held out.
        """

        norm: Literal["caa", "own"] = "own"
        rank: int = 4
        learning_rate: float = 0.2
        epochs: int = 2
        batch_size: int = 8
        seed: int = 0

        def __post_init__(self) -> None:
            PairVector.Config.__post_init__(self)
            if self.learning_rate <= 0:
                raise ValueError(f"learning_rate: {self.learning_rate:g} is too small; give more than 0")
            if lines := too_few({"rank": self.rank, "epochs": self.epochs, "batch_size": self.batch_size}):
                raise ValueError("\n".join(lines))

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self.training: dict[str, Any] = {}

    def check(self, layers: Layers) -> list[str]:
        """Layers that the model does not have, and more directions than its state has."""
        mistakes = super().check(layers)
        if layers.hidden and self.config.rank > layers.hidden:
            mistakes.append(f"{self.name}.rank: {self.config.rank} is above the model's width, {layers.hidden}")
        return mistakes

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """One map a layer, all layers at once. [L, r, D]

        Raises:
            UserError: the loss is no number any more.
            SystemExit: stopped by the user; the state is kept.
        """
        activations = self.read_activations(model, tokenizer, pairs)
        maps, states = self._learned(model, tokenizer, pairs, activations, exchanged=set())
        shift = mean_shift(maps, states)
        if self.config.norm == "caa":
            wanted = activations.mean_difference().norm(dim=-1)
            maps, shift = maps.scaled(wanted / shift.clamp_min(1e-30)), wanted
        self.vectors, self.beside = maps.rotate, {"reads": maps.reads, "bias": maps.bias}
        self.diagnostics = sizes(activations, pairs, vectors=shift[:, None])

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """The directions learned anew from the exchanged pairs: as much work as the fit itself. [L, r, D]

        Their length is the mean shift of that map over the fitted one's, which `edits` takes up.
        """
        activations = self.read_activations(model, tokenizer, pairs)
        maps, states = self._learned(model, tokenizer, pairs, activations, exchanged=exchanged)
        shift = mean_shift(maps, states)
        if self.config.norm == "caa":
            shift = exchanged_mean(activations, pairs, exchanged=exchanged).norm(dim=-1)
        own = mean_shift(Maps(rotate=self.fitted(), **self.beside), states)
        return maps.rotate * (shift / own.clamp_min(1e-30))[:, None, None]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One map, at the condition's layer."""
        from caa_bench.engine.edit import Edit
        from caa_bench.engine.low_rank import LowRank

        if condition.layer is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        rotate, reads, bias = (
            one[condition.layer] for one in (self.fitted(), self.beside["reads"], self.beside["bias"])
        )
        return [Edit(condition.layer, LowRank(_at_right_angles(rotate), reads, bias, dose=condition.multiplier))]

    @property
    def acts(self) -> str:
        """One block, from the end of the instruction on."""
        return (
            "Moves the output of ONE decoder block (counted from 0) along a few learned directions, by a learned "
            "linear function of that output times the multiplier, at every position from the last token of the "
            "instruction on"
        )

    def facts_for_card(self, layer: int | None) -> OnCard:
        """What it holds, and the held-out loss of its layer."""
        count, rank, hidden = self.fitted().shape
        at = round(DEFAULT_DEPTH * count) if layer is None else layer
        facts = {"holds": f"a map of rank {rank} a layer, {count} layers of width {hidden}"}
        if held_out := [losses[at] for losses in self.training.get("held_out_loss", [])]:
            said = ", ".join(f"{loss:.3f}" for loss in held_out)
            facts[f"held-out loss at layer {at}"] = (
                f"{said} before and after each epoch, {self.training['held_out_pairs']} pairs, mean of doses 1 and -1"
            )
        return OnCard(condition=f"layer={at}, multiplier=1.0", facts=facts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the maps as safetensors with the settings that made them and what is known of their training."""
        facts = {"diagnostics": list(self.diagnostics), "training": self.training}
        self.keep(folder, tensors={**self.beside, "vectors": self.fitted()}, facts=facts)

    def load(self, folder: str | Path) -> Self:
        """Read checked maps.

        Raises:
            UserError: damaged, or not one map a layer.
        """
        from caa_bench.storage.artifact_folder import read_meta

        super().load(folder)
        self.training = read_meta(Path(folder)).get("training", {})
        return self

    def _learned(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
        activations: PairActivations,
        *,
        exchanged: set[str],
    ) -> tuple[Maps, Tensor]:
        """Maps in the method's own length, and states that they act on. [N, L, D]

        Args:
            exchanged: ids of the items whose two answers change places.
        """
        import torch

        from caa_bench.interventions.conditional import steered_states
        from caa_bench.interventions.held_out import split_held_out
        from caa_bench.interventions.loreft_training import Training, Units, train_maps
        from caa_bench.interventions.vectors import letter_prompts

        mean = activations.mean_difference()
        units = Units(read=_lengths(activations), moved=mean.norm(dim=-1))
        training = Training(units, rank=self.config.rank, hidden=mean.shape[1], seed=self.config.seed)
        prompts = [
            replace(prompt, candidates=prompt.candidates[::-1]) if pair.item in exchanged else prompt
            for pair, prompt in zip(pairs, letter_prompts(tokenizer, pairs), strict=True)
        ]
        out = {pair.id for pair in split_held_out(pairs, seed=self.config.seed)[1]}
        learned, held_out = (
            [prompt for pair, prompt in zip(pairs, prompts, strict=True) if (pair.id in out) is held]
            for held in (False, True)
        )
        train_maps(model, learned, held_out, training, config=self.config)
        if not exchanged:
            self.training = training.known(learned, held_out)
        states = torch.from_numpy(steered_states(model, tokenizer, pairs[:LOOKED_AT]))
        return training.maps().ordered(states), states


def _lengths(activations: PairActivations) -> Tensor:
    """The median length of an activation, both sides. [L]"""
    import numpy as np
    import torch

    found = []
    for layer in range(activations.shape[2]):
        both = np.concatenate([activations.layer(layer, side) for side in (0, 1)]).astype(np.float64)
        found.append(float(np.median(np.linalg.norm(both, axis=1))))
    return torch.tensor(found)


def _at_right_angles(rows: Tensor) -> Tensor:
    """The nearest rows at right angles and of one length: these themselves where they are so. [r, D]"""
    import torch

    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    return left @ right * rows.pow(2).sum(dim=-1).mean().sqrt()
