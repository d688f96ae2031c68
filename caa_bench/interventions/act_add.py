"""Activation Addition (Turner et al. 2023, arXiv 2308.10248, algorithm 1): a few prompts, front-aligned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caa_bench.interventions.activations import exchanged_mean
from caa_bench.interventions.base import Condition
from caa_bench.interventions.pair_vectors import PairVector, sizes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit


class ActAdd(PairVector):
    """h_j + multiplier * (h_j(plus) - h_j(minus)) at the first positions j of every prompt, in one block.

    plus and minus are short texts run by themselves, the shorter one filled up with blanks: here the option texts of a
    few training items, averaged position by position. Position rule: front-aligned, the text's token j meets the
    prompt's token j; the first token (BOS, or what the chat template begins with) is the same in both and stays.
    Everything behind changes through attention alone, so each condition is a full forward of its own. The paper takes
    one pair of words (" Love" - " Hate") and doses of 3 to 15 of the raw difference; `norm: caa` scales the positions
    together so that their mean length is CAA's.
    """

    name = "act_add"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `act_add`.

        Args:
            items: training items whose option texts are averaged; the paper has one pair.
            tokens: positions at most, behind the first one.
        """

        items: int = 8
        tokens: int = 8

        def __post_init__(self) -> None:
            PairVector.Config.__post_init__(self)
            for key in ("items", "tokens"):
                if (value := getattr(self, key)) < 1:
                    raise ValueError(f"{key}: {value} is too small; give 1 or more")

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """The mean difference at each of the first positions. [L, K, D]"""
        activations = self.read_activations(model, tokenizer, pairs)
        found = self._differences(model, tokenizer, pairs, exchanged=set())
        self.vectors = found = self._sized(found, activations.mean_difference())
        self.diagnostics = sizes(activations, pairs, vectors=found[:, 1:].norm(dim=-1).mean(dim=-1, keepdim=True))

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """The same of texts that change places; where that would be all of the few or none, every other one."""
        used = self._used(pairs)
        turned = exchanged & set(used)
        if len(turned) in (0, len(used)):
            turned = set(used[::2])
        mean = exchanged_mean(self.read_activations(model, tokenizer, pairs), pairs, exchanged=exchanged)
        return self._sized(self._differences(model, tokenizer, pairs, exchanged=turned), mean)

    def _sized(self, found: Tensor, mean: Tensor) -> Tensor:
        """`found` [L, K, D], as long as the mean difference [L, D] where CAA's length is asked for. [L, K, D]"""
        if self.config.norm == "own":
            return found
        behind_first = found[:, 1:].norm(dim=-1).mean(dim=-1).clamp_min(1e-30)
        return found * (mean.norm(dim=-1) / behind_first)[:, None, None]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """One addition a position: those of `first:k` hold at all positions before k too, so each is a difference."""
        from caa_bench.engine.changes import Add
        from caa_bench.engine.edit import Edit

        if condition.layer is None:
            raise ValueError(f"{self.label} needs Condition(layer=...)")
        own = condition.multiplier * self.fitted()[condition.layer]
        steps = own.clone()
        steps[:-1] -= own[1:]
        return [Edit(condition.layer, Add(step), positions=f"first:{k}") for k, step in enumerate(steps, start=1)]

    @property
    def acts(self) -> str:
        """One block, the first positions."""
        return (
            "Added to the output of ONE decoder block (counted from 0), times the multiplier, at the first positions "
            "of the prompt, another vector at each"
        )

    def _used(self, pairs: Pairs) -> list[str]:
        return list(dict.fromkeys(pair.item for pair in pairs))[: self.config.items]

    def _differences(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """Mean over the used items of (plus - minus) at each position. [L, K, D], K = 1 + tokens"""
        import torch

        first = {pair.item: pair for pair in reversed(pairs)}
        total = torch.zeros((), dtype=torch.float64)
        for item in self._used(pairs):
            texts = (first[item].matching_text, first[item].other_text)
            ids = aligned(tokenizer, texts[::-1] if item in exchanged else texts)
            found = _outputs(model, ids)[:, :, : 1 + self.config.tokens]  # [L, 2, T, D]
            difference = torch.zeros(len(found), 1 + self.config.tokens, found.shape[-1], dtype=torch.float64)
            difference[:, : found.shape[2]] = found[:, 0].double() - found[:, 1].double()
            total = total + difference
        return (total / len(self._used(pairs))).float()


def aligned(tokenizer: PreTrainedTokenizerBase, texts: tuple[str, str]) -> list[list[int]]:
    """Both texts behind the token that every prompt begins with, the shorter one filled up with blanks. [2][T]"""
    from caa_bench.models.prompts import chat_prompt

    begin = chat_prompt(tokenizer, [{"role": "user", "content": texts[0]}]).ids[0]
    plus, minus = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    blank = tokenizer(" ", add_special_tokens=False)["input_ids"][-1:] or plus[-1:]
    length = max(len(plus), len(minus))
    return [[begin, *ids, *blank * (length - len(ids))] for ids in (plus, minus)]


def _outputs(model: PreTrainedModel, ids: list[list[int]]) -> Tensor:
    """Every block's output at every position. [L, 2, T, D] fp32"""
    import torch

    from caa_bench.engine.capture import kept_outputs
    from caa_bench.models.blocks import decoder, frozen, input_device

    with frozen(model), kept_outputs(model) as kept:
        decoder(model)(input_ids=torch.tensor(ids, device=input_device(model)), use_cache=False)
    return torch.stack(kept)
