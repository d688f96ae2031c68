"""What every steering vector shares: one vector a layer, applied as an additive edit, kept as a checked artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.parts import OnCard
from caa_bench.models.layers import DEFAULT_DEPTH, Layers

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pair, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import ChoicePrompt

Diagnostics = Sequence[Mapping[str, float | int | None]]


class SteeringVector(Intervention):
    """Adds `multiplier * vectors[layer]` to the output of one block, from the instruction's last token on.

    Subclasses set `vectors` in `fit`: fp32 on the CPU, one row a decoder block. [L, D] Where they come from pairs,
    `diagnostics` says how far these agree, a line a layer (`analysis.diagnostics`); empty where that is not known.
    What else `edits` needs stands in `beside`, by name: it is kept with the vectors, and a placebo takes it over.

    Example:
        from caa_bench import SteeringVector
        from caa_bench.interventions.vectors import letter_differences

        class Median(SteeringVector):
            name = "median"

            def fit(self, model, tokenizer, pairs):
                self.vectors = letter_differences(model, tokenizer, pairs).median(dim=0).values
    """

    role = "vector"
    trains = True
    vectors: Tensor | None = None
    diagnostics: Diagnostics = ()
    beside: Mapping[str, Tensor] = MappingProxyType({})

    def fitted(self) -> Tensor:
        """The vectors. [L, D]

        Raises:
            RuntimeError: `fit` or `load` has not run yet.
        """
        if self.vectors is None:
            raise RuntimeError(f"{self.label} has no vectors yet: call fit(...) or load(folder) first")
        return self.vectors

    def vector_layer(self, condition: Condition) -> int | None:
        """The layer whose vector is applied under this condition: its own, unless a subclass transfers one."""
        return condition.layer

    def own_pairs(self, pairs: Pairs) -> Pairs:
        """The pairs that it learns from: the measured behavior's, unless a subclass takes another's."""
        return pairs

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """What this method gives, and as long as it then is, where some items' two answers change places. [L, D]

        Args:
            exchanged: ids of these items.
        """
        own = self.own_pairs(pairs)
        labeled = replace(own, pairs=tuple(_exchanged(pair) if pair.item in exchanged else pair for pair in own))
        again = type(self)(self.config, variant=self.variant)
        again.fit(model, tokenizer, labeled)
        return again.fitted()

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One edit: the vector at the condition's layer (paper section 3: added from the instruction's end on)."""
        self.fitted()  # first: a dry run asks before there is anything, and must not import the engine
        from caa_bench.engine.changes import Add
        from caa_bench.engine.edit import Edit

        source = self.vector_layer(condition)
        if condition.layer is None or source is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        return [Edit(condition.layer, Add(condition.multiplier * self.fitted()[source]))]

    @property
    def acts(self) -> str:
        """One block, from the end of the instruction on."""
        return (
            "Added to the output of ONE decoder block (counted from 0), times the multiplier, at every position from "
            "the last token of the instruction on: that token, the answer's opening and every new token"
        )

    def facts_for_card(self, layer: int | None) -> OnCard:
        """The layer that its code steers, what it holds, and how far its training pairs agree there."""
        vectors = self.fitted()
        layer = round(DEFAULT_DEPTH * len(vectors)) if layer is None else layer
        facts = {"holds": f"a vector a layer, {len(vectors)} layers of width {vectors.shape[-1]}"}
        taken = self.vector_layer(Condition(layer=layer))
        line = next((line for line in self.diagnostics if line.get("layer") == taken), None)
        if line is not None:
            agreement, separability = (_interval(line, name) for name in ("agreement", "separability"))
            facts[f"pairs at layer {taken}"] = (
                f"mean cosine with the vector {agreement}, separability d' {separability}, 95% intervals, "
                f"n {line['n']} pairs"
            )
        return OnCard(condition=f"layer={layer}, multiplier=1.0", facts=facts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vectors` as safetensors with the settings that made them and their diagnostics, checksummed."""
        facts = {"diagnostics": list(self.diagnostics)} if self.diagnostics else {}
        self.keep(folder, tensors={**self.beside, "vectors": self.fitted()}, facts=facts)

    def load(self, folder: str | Path) -> Self:
        """Read checked vectors.

        Raises:
            UserError: damaged, or not one row a layer.
        """
        from caa_bench.storage.artifact_folder import read_artifact

        artifact = read_artifact(Path(folder), expect=None)
        vectors, lines = artifact.tensors.get("vectors"), artifact.meta.get("diagnostics", [])
        if vectors is None or vectors.dim() < 2:
            raise UserError(f"{folder}: no [layers, hidden] tensor called 'vectors'; delete the folder and fit again")
        if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
            raise UserError(f"{folder}: its diagnostics are no list of layers; delete the folder and fit again")
        self.vectors, self.diagnostics = vectors, lines
        self.beside = {name: tensor for name, tensor in artifact.tensors.items() if name != "vectors"}
        return self


def diagnosed(sides: Tensor, pairs: Pairs) -> pd.DataFrame:
    """`analysis.diagnostics.vector_diagnostics` of what `letter_sides` gave for these pairs. [N, 2, L, D]"""
    from caa_bench.analysis.diagnostics import vector_diagnostics

    matching, other = (sides[:, side].numpy() for side in (0, 1))
    items, keys = [pair.item for pair in pairs], [pair.matching for pair in pairs]
    return vector_diagnostics(matching, other, clusters=items, keys=keys)


def letter_differences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> Tensor:
    """Matching minus other: every block's output at the answer letter, one row a pair (paper section 3, eq. 1).

    Two prompts a pair that differ in the letter alone; they share everything before it, and all layers come from
    the same pass.

    Returns:
        Differences in fp32 on the CPU. [N, L, D]: N pairs, L layers, D hidden size
    """
    activations = letter_sides(model, tokenizer, pairs)
    return activations[:, 0] - activations[:, 1]


def letter_sides(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> Tensor:
    """Every block's output at the answer letter, the matching answer's and the other's.

    Returns:
        Activations in fp32 on the CPU. [N, 2, L, D]
    """
    from caa_bench.engine.capture import letter_activations

    return letter_activations(model, letter_prompts(tokenizer, pairs))


def letter_prompts(tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> list[ChoicePrompt]:
    """Each pair's question up to the letter; the candidates are the matching answer's letter and the other's."""
    from caa_bench.models.prompts import choice_prompt

    return [
        choice_prompt(tokenizer, [{"role": "user", "content": pair.question}], (pair.matching[1:-1], pair.other[1:-1]))
        for pair in pairs
    ]


def _exchanged(pair: Pair) -> Pair:
    return replace(
        pair,
        matching=pair.other,
        other=pair.matching,
        matching_text=pair.other_text,
        other_text=pair.matching_text,
    )


def grid_mistakes(section: str, layers: tuple[int, ...], known: Layers) -> list[str]:
    """One line for the layers that the model does not have."""
    wrong = [layer for layer in layers if not 0 <= layer < known.count]
    if not wrong:
        return []
    return [
        f"{section}: layer {', '.join(map(str, wrong))} does not exist; this model has layers 0 to {known.count - 1}"
    ]


def _interval(line: Mapping[str, float | int | None], name: str) -> str:
    point, low, high = (line.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if point is None:
        return "n/a"
    return f"{point:.2f}" if low is None or high is None else f"{point:.2f} [{low:.2f}, {high:.2f}]"
