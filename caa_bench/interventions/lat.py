"""Linear Artificial Tomography (Zou et al. 2023, arXiv 2310.01405, section 3.1): PCA of differences of random pairs."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from caa_bench.interventions.pair_vectors import Component
from caa_bench.interventions.principal import first_component

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.interventions.activations import PairActivations

TEMPLATE = (
    "Consider the amount of {behavior} in the following answer.\n\nQuestion: {question}\nAnswer: {answer}\n\n"
    "The amount of {behavior} in the answer is"
)
PLACES = re.compile(r"\{(behavior|question|answer)\}")


class LAT(Component):
    """v = the first principal component of h(s_i) - h(s_j) less their mean, over pairs (i, j) of stimuli.

    A stimulus is one answer of one training pair in a task template; h is read at the prompt's last token, behind the
    template's words for the answer to come. `random` pairs the stimuli by a draw among all of them, without labels;
    `within` takes the two answers of a pair, their order drawn. The labels give the sign alone: that in which more of
    the training pairs have the matching answer further along v. Position rule: read at the last token of the stimulus's
    prompt, added to one block from the last token of the instruction on.

    Where it differs from `repe_pca`: that one reads the answer letter of the run's own question format, takes every
    pair in both orders (so that nothing depends on a draw), and signs by the mean. Where it differs from the paper's
    code: the template is the code's own for question and answer, with a chat template's user turn around it; several
    components, other tokens and the use as a reader of a text are left out, and the code adds v in many layers.
    """

    name = "lat"

    @dataclass(frozen=True, kw_only=True)
    class Config(Component.Config):
        """Recipe section `lat`.

        Args:
            pairing: `random`, any two stimuli; `within`, the two answers of one pair, in a drawn order.
            template: the user's turn; {question} and {answer} must stand in it, {behavior} (the behavior's name) may.
                Empty: the question is the user's turn and the answer letter the model's, read there as CAA does.
            seed: of the draw.
        """

        pairing: Literal["random", "within"] = "random"
        template: str = TEMPLATE
        seed: int = 0

        def __post_init__(self) -> None:
            Component.Config.__post_init__(self)
            missing = [f"{{{name}}}" for name in ("question", "answer") if f"{{{name}}}" not in self.template]
            if self.template and missing:
                raise ValueError(f"template: has no {' and no '.join(missing)}; put each where its text is to stand")

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """One direction a layer, from a reading of its own: a whole prompt for each answer of each pair.

        Raises:
            ValueError: nothing differs between the stimuli.
            SystemExit: stopped by the user; what was read is kept.
        """
        from caa_bench.interventions.activations import read_last_tokens

        self._stimuli = read_last_tokens(model, self.stimuli(tokenizer, pairs), name="stimuli")
        super().fit(model, tokenizer, pairs)
        del self._stimuli

    def directions(self, activations: PairActivations, pairs: Pairs, *, exchanged: set[str]) -> Tensor:
        """The component in every layer. [L, D]"""
        import numpy as np
        import torch

        chosen = np.array(self.paired(len(pairs)))  # [P, 2]
        found = []
        for layer in range(self._stimuli.shape[2]):
            states = self._stimuli.layer(layer, 0).astype(np.float64)  # [2 P, D]: matching, other, matching, ...
            differences = states[chosen[:, 0]] - states[chosen[:, 1]]
            direction = first_component(differences - differences.mean(axis=0))
            along = states @ direction
            right = along[::2] - along[1::2]
            found.append(direction if (right > 0).sum() >= (right < 0).sum() else -direction)
        return torch.from_numpy(np.stack(found).astype(np.float32))

    def paired(self, count: int) -> list[tuple[int, int]]:
        """Which two stimuli each difference is of; stimulus 2 n is the matching answer of pair n, 2 n + 1 the other.

        Args:
            count: of training pairs; as many differences.
        """
        draw = random.Random(self.config.seed)  # noqa: S311 - a draw, not a secret
        if self.config.pairing == "random":
            order = draw.sample(range(2 * count), 2 * count)
            return list(zip(order[::2], order[1::2], strict=True))
        return [(2 * n, 2 * n + 1) if draw.random() < 0.5 else (2 * n + 1, 2 * n) for n in range(count)]

    def stimuli(self, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> list[tuple[int, ...]]:
        """Token ids of each pair's matching and other answer in the template, up to where the model answers. [2 P]"""
        from caa_bench.interventions.vectors import letter_prompts
        from caa_bench.models.prompts import chat_prompt

        if not self.config.template:
            return [
                (*prompt.ids, letter) for prompt in letter_prompts(tokenizer, pairs) for letter in prompt.candidates
            ]
        found, behavior = [], pairs.behavior.replace("-", " ")
        for pair in pairs:
            for answer in (f"{pair.matching} {pair.matching_text}", f"{pair.other} {pair.other_text}"):
                said = _filled(self.config.template, behavior=behavior, question=pair.question, answer=answer)
                found.append(chat_prompt(tokenizer, [{"role": "user", "content": said}]).ids)
        return found


def _filled(template: str, **texts: str) -> str:
    """The template with its texts; what stands in a text is never taken for a place."""
    return PLACES.sub(lambda place: texts[place[1]], template)
