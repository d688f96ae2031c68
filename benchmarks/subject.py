"""What is measured: one random model, the published refusal prompts, and the conditions of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.models.prompts import ChoicePrompt, Prompt

DATA = Path(__file__).parents[2] / "shared" / "data"
SHAPES = {
    "512x12": {"hidden_size": 512, "num_hidden_layers": 12, "intermediate_size": 1376, "num_attention_heads": 8},
    "llama-2-7b": {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "num_attention_heads": 32},
}
LETTERS = (29909, 29933)  # A and B of the Llama 2 tokenizer
SEVEN = (-2.0, -1.5, -1.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the benchmark was asked for.

    Args:
        shape: a key of SHAPES; vocabulary 32000 either way.
        device / dtype: of the model.
        threads: CPU threads.
        repetitions: interleaved repetitions behind each median.
        clock: `wall`, or `cpu` for a machine that is not quiet (1 thread).
    """

    shape: str
    device: str
    dtype: str
    threads: int
    repetitions: int
    clock: str = "wall"


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model and everything that is run on it."""

    model: LlamaForCausalLM
    test: list[ChoicePrompt]
    train: list[ChoicePrompt]
    open_ended: list[Prompt]
    vectors: Tensor  # [L, D], as long as a typical change between two hidden states

    @property
    def layers(self) -> int:
        """N."""
        return int(self.model.config.num_hidden_layers)

    def sweep(self, multipliers: Sequence[float] = (-1.0, 1.0)) -> list[list[Edit]]:
        """Every layer x these multipliers."""
        return [
            [Edit(layer, Add(self.vectors[layer] * multiplier))]
            for layer in range(self.layers)
            for multiplier in multipliers
        ]


def build(settings: Settings) -> Subject:
    """The subject of one run; random but equal every time."""
    torch.manual_seed(0)
    dtype = getattr(torch, settings.dtype)
    with torch.device(settings.device):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, **SHAPES[settings.shape])).eval()
        torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(1)
    return Subject(
        model=model,
        test=_choice_prompts("test/refusal/test_dataset_ab.json", 50),
        train=_choice_prompts("generate/refusal/generate_dataset.json", 200),
        open_ended=_open_prompts("test/refusal/test_dataset_open_ended.json", 16),
        vectors=torch.randn(model.config.num_hidden_layers, model.config.hidden_size, generator=generator) * 0.3,
    )


def published() -> bool:
    """Whether the published questions and the Llama 2 tokenizer are there; else random tokens stand in for them."""
    return (DATA / "caa").is_dir() and (DATA / "llama2-tokenizer" / "tokenizer.model").is_file()


def _choice_prompts(name: str, count: int) -> list[ChoicePrompt]:
    rows = _tokens(name, count, " [/INST] (", mean=78)
    return [ChoicePrompt(ids=ids, first_position=len(ids) - 2, candidates=LETTERS) for ids in rows]


def _open_prompts(name: str, count: int) -> list[Prompt]:
    rows = _tokens(name, count, " [/INST]", mean=30)
    return [Prompt(ids=ids, first_position=len(ids) - 1) for ids in rows]


def _tokens(name: str, count: int, end: str, *, mean: int) -> list[tuple[int, ...]]:
    if published():
        questions = [item["question"].strip() for item in json.loads((DATA / "caa" / name).read_text())[:count]]
        return [(1, *_tokenizer().encode(f"[INST] {question}{end}")) for question in questions]
    generator = torch.Generator().manual_seed(len(name))
    lengths = (mean + mean / 4 * torch.randn(count, generator=generator)).clamp(min=mean // 2).int().tolist()
    return [(1, *torch.randint(3, 32000, (length,), generator=generator).tolist()) for length in lengths]


@cache
def _tokenizer():
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(DATA / "llama2-tokenizer" / "tokenizer.model"))
