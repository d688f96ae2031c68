"""Inference-Time Intervention (Li et al. 2023, arXiv 2306.03341, section 4): the heads whose probes know, shifted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.base import Condition
from caa_bench.interventions.parts import OnCard
from caa_bench.interventions.vectors import SteeringVector
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit

HELD_OUT = 0.2


class ITI(SteeringVector):
    """x_h + multiplier * alpha * s_h t_h at the outputs x_h of the chosen attention heads, in front of the projection.

    A probe a head tells the two sides apart on four fifths of the items; the heads with the best accuracy on the other
    fifth are chosen. t_h is the unit vector of the difference of the sides' means ("mass mean shift"), s_h the standard
    deviation of the activations along it. Position rule: read at the answer letter, added from the last token of the
    instruction on. The dose is the paper's own, alpha standard deviations at multiplier 1: a head's output has no CAA
    vector to be as long as. The paper reads the last token of question and answer of TruthfulQA, and takes 48 of 1,024
    heads with alpha 15.

    The vectors have one row a layer, all heads side by side, 0 where a head was not chosen. [L, H * E]
    """

    name = "iti"
    grid = ("multipliers",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `iti`.

        Args:
            multipliers: doses; 0 is always measured, once a base.
            share: of all heads that are shifted, at least one (0-1).
            alpha: standard deviations at multiplier 1.
            seed: of the items held out.
        """

        multipliers: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
        share: float = 0.05
        alpha: float = 15.0
        seed: int = 0

        def __post_init__(self) -> None:
            if not any(self.multipliers):
                raise ValueError("multipliers: no dose but 0; give one")
            if not 0 < self.share <= 1:
                raise ValueError(f"share: {self.share:g} is no such share; give more than 0, 1 at most")
            if self.alpha <= 0:
                raise ValueError(f"alpha: {self.alpha:g} is too small; give more than 0")

    def check_slices(self) -> list[str]:
        """Its heads lie on several ranks."""
        return [
            "iti: it reads and changes attention heads, which lie on several ranks (loading.parallel); take it out, or "
            "use loading.device_map=auto"
        ]

    def conditions(self, layers: Layers) -> list[Condition]:
        """One a dose, all chosen heads at once."""
        return [Condition(multiplier=dose) for dose in self.config.multipliers if dose]

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Choose the heads and their shifts. [L, H * E]"""
        import torch

        heads = _head_outputs(model, tokenizer, pairs)
        self.vectors, accuracy = self._shifts(heads, pairs, exchanged=set())
        self.beside = {"accuracy": torch.from_numpy(accuracy)}

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """The shifts of the SAME heads where the two sides change places in some items. [L, H * E]"""
        heads = _head_outputs(model, tokenizer, pairs)
        return self._shifts(heads, pairs, exchanged=exchanged, chosen=self.fitted() != 0)[0]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One addition in each layer that has a chosen head."""
        from caa_bench.engine.changes import Add
        from caa_bench.engine.edit import Edit

        return [
            Edit(layer, Add(condition.multiplier * row), site="heads")
            for layer, row in enumerate(self.fitted())
            if bool(row.any())
        ]

    @property
    def acts(self) -> str:
        """Some heads, from the end of the instruction on."""
        return (
            "Added to the outputs of chosen attention heads, in front of the attention's output projection, times the "
            "multiplier, at every position from the last token of the instruction on"
        )

    def facts_for_card(self, layer: int | None) -> OnCard:
        """Where the chosen heads are, and how well their probes did."""
        accuracy, rows = self.beside["accuracy"], self.fitted()
        chosen = rows.view(*accuracy.shape, -1).any(dim=-1)
        named = ", ".join(f"{at}.{head} ({accuracy[at, head]:.2f})" for at, head in chosen.nonzero().tolist())
        return OnCard(facts={"heads (layer.head, accuracy of the probe on items held out)": named})

    def _shifts(
        self, heads: np.ndarray, pairs: Pairs, *, exchanged: set[str], chosen: Tensor | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """The shifts [L, H * E], and each head's accuracy [L, H] where the heads are still to be chosen.

        Args:
            heads: [P, 2, L, H, E]
        """
        import numpy as np
        import torch

        turned = np.array([pair.item in exchanged for pair in pairs])
        heads = np.where(turned[:, None, None, None, None], heads[:, ::-1], heads)
        gap = heads[:, 0].mean(axis=0, dtype=np.float64) - heads[:, 1].mean(axis=0, dtype=np.float64)  # [L, H, E]
        unit = gap / np.maximum(np.linalg.norm(gap, axis=-1, keepdims=True), 1e-30)
        spread = np.einsum("pslhe,lhe->pslh", heads, unit).std(axis=(0, 1))
        shift = self.config.alpha * spread[..., None] * unit
        layers, count = spread.shape
        accuracy = np.zeros((layers, count))
        if chosen is not None:
            mask = chosen.view(shift.shape).any(dim=-1).numpy()
        else:
            accuracy = _accuracy(heads, pairs, seed=self.config.seed)
            most = max(1, round(self.config.share * accuracy.size))
            mask = np.zeros(accuracy.size, dtype=bool)
            mask[np.argsort(-accuracy.ravel(), kind="stable")[:most]] = True
            mask = mask.reshape(accuracy.shape)
        found = np.where(mask[..., None], shift, 0.0).reshape(layers, -1)
        return torch.from_numpy(found.astype(np.float32)), accuracy


def _accuracy(heads: np.ndarray, pairs: Pairs, *, seed: int) -> np.ndarray:
    """The share of held-out sides that each head's probe puts right. [L, H]"""
    import numpy as np

    from caa_bench.interventions.probes import fit_probe

    items = sorted({pair.item for pair in pairs})
    held = set(random.Random(seed).sample(items, max(1, round(HELD_OUT * len(items)))))  # noqa: S311 - a draw
    out = np.array([pair.item in held for pair in pairs])
    if out.all():
        out[:] = False  # a single item: nothing can be held out
    test = out if out.any() else ~out
    found = np.zeros(heads.shape[2:4])
    for layer, head in np.ndindex(*found.shape):
        rows = heads[:, :, layer, head].astype(np.float64)  # [P, 2, E]
        first = np.tile([True, False], (len(rows), 1))
        probe = fit_probe(rows[~out].reshape(-1, rows.shape[-1]), first[~out].ravel())
        found[layer, head] = probe.right(rows[test].reshape(-1, rows.shape[-1]), first[test].ravel())
    return found


@contextmanager
def _kept_heads(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Every layer's heads side by side at the last position of the forward inside. [B, H * E] each, fp32, CPU"""
    from caa_bench.engine.sites import site_module
    from caa_bench.models.blocks import num_layers

    kept: dict[int, Tensor] = {}

    def keep(_module: Any, args: tuple[Any, ...], *, layer: int) -> None:
        kept[layer] = args[0][:, -1].float().cpu()

    with ExitStack() as hooks:
        for layer in range(num_layers(model)):
            module = site_module(model, layer, "heads")
            hooks.callback(module.register_forward_pre_hook(partial(keep, layer=layer)).remove)
        yield kept


def _head_outputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, batch_size: int = 16
) -> np.ndarray:
    """What goes into every attention's output projection at the answer letter, both sides. [P, 2, L, H, E] fp32"""
    import numpy as np
    import torch

    from caa_bench.engine.batches import pad
    from caa_bench.engine.capture import letter_groups
    from caa_bench.interventions.vectors import letter_prompts
    from caa_bench.models.blocks import decoder, frozen, input_device, num_layers

    prompts = letter_prompts(tokenizer, pairs)
    found = np.zeros(0, dtype=np.float32)
    count = model.config.get_text_config().num_attention_heads
    for group in letter_groups(model, prompts, batch_size=batch_size):
        for side in (0, 1):
            ids = [(*prompts[row].ids, prompts[row].candidates[side]) for row in group]
            padded = pad(ids, input_device(model))
            with frozen(model), _kept_heads(model) as kept:
                decoder(model)(
                    input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.positions, use_cache=False
                )
            here = torch.stack([kept[layer] for layer in range(num_layers(model))], dim=1).numpy()
            if not found.size:
                found = np.zeros((len(pairs), 2, *here.shape[1:]), dtype=np.float32)
            found[group, side] = here
    return np.asarray(found.reshape(*found.shape[:3], count, -1))
