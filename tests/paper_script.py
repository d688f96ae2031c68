"""The paper's procedure as a plain script: sentencepiece, one prompt at a time, forward hooks, full softmax.

Shares nothing with the package: what `recipes/paper.yaml` gives is held against this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sentencepiece
import torch
from chat_tokenizers import LLAMA2

INSTRUCTION_END = [518, 29914, 25580, 29962]  # ` [/INST]`
LETTERS = {"A": 29909, "B": 29933, "C": 29907, "D": 29928, "E": 29923, "F": 29943, "G": 29954, "H": 29950}


@dataclass(frozen=True)
class Steering:
    """`multiplier * vector` added to the output of block `layer`."""

    layer: int
    vector: torch.Tensor
    multiplier: float


class PaperScript:
    """The paper's prompts, vectors and probabilities on a Llama-shaped model.

    Args:
        model: any model whose blocks are found under `blocks` ("model.layers").
    """

    def __init__(self, model: Any, *, blocks: str = "model.layers") -> None:
        self.model = model.eval()
        self.blocks = model.get_submodule(blocks)
        self.tokens = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA2))

    def ids(self, question: str, answer: str, *, system: str = "") -> list[int]:
        """BOS, the system block in front of [INST], the question, and one space before the answer."""
        before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
        return [1, *self.tokens.encode(f"{before}[INST] {question.strip()} [/INST] {answer}")]

    def outputs(self, ids: Sequence[int]) -> torch.Tensor:
        """Every block's output at the letter, which is the second to last token. [L, D]"""
        seen: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(lambda _m, _a, out: seen.append(out[0, -2])) for block in self.blocks]
        with torch.no_grad():
            self.model(torch.tensor([ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        return torch.stack(seen)

    def vector(self, items: Sequence[Mapping[str, str]]) -> torch.Tensor:
        """Mean of matching - not matching over the items. [L, D]"""
        total = torch.zeros(len(self.blocks), self.model.config.hidden_size, dtype=torch.float64)
        for item in items:
            for key, sign in (("answer_matching_behavior", 1), ("answer_not_matching_behavior", -1)):
                total += sign * self.outputs(self.ids(item["question"], item[key].strip())).double()
        return (total / len(items)).float()

    def probabilities(self, question: str, *, system: str = "", steering: Steering | None = None) -> torch.Tensor:
        """p(A) .. p(H) over the full vocabulary after ` (`."""
        ids = self.ids(question, "(", system=system)
        ends = [i + 4 for i in range(len(ids)) if ids[i : i + 4] == INSTRUCTION_END]
        hooks = []
        if steering is not None:

            def add(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
                out = out.clone()
                out[:, ends[-1] - 1 :] += steering.multiplier * steering.vector
                return out

            hooks.append(self.blocks[steering.layer].register_forward_hook(add))
        with torch.no_grad():
            logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return logits.softmax(-1)[list(LETTERS.values())]


def normalized(raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every behavior's vector rescaled, per layer, to the mean norm over all of them."""
    mean = torch.stack([vector.norm(dim=-1) for vector in raw.values()]).mean(0)
    return {name: vector * (mean / vector.norm(dim=-1))[:, None] for name, vector in raw.items()}


def p_matching(probabilities: torch.Tensor, answer: str) -> float:
    """The paper's rule: over A and B alone, so that an item keyed otherwise scores 0."""
    place = "ABCDEFGH".index(answer.strip(" ()"))
    return float(probabilities[place] / (probabilities[0] + probabilities[1])) if place < 2 else 0.0
