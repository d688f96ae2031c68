"""Tiny random models by family, and prompts for them: real architectures, seeded weights, milliseconds a forward.

Weights are larger than a fresh model's, so that steering and attention change the logits visibly: a test on a model
whose every answer is the same would hold whatever the code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from caa_bench.models.prompts import ChoicePrompt

# Sliding windows are 8 tokens, shorter than the prompts of the tests, so that they matter. None takes a key away.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gemma3": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
_MORE: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64, "pad_token_id": 0, "num_key_value_heads": None},
    "gptj": {"rotary_dim": 8, "num_key_value_heads": None},
    "falcon": {"alibi": False},
    "bloom": {"num_key_value_heads": None},
}
FAMILIES = tuple(_FAMILIES)
MORE_FAMILIES = tuple(_MORE)


def random_model(
    family: str,
    *,
    layers: int = 4,
    hidden: int = 64,
    vocab: int = 97,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PreTrainedModel:
    """A causal language model of one family, in evaluation mode; equal for equal arguments.

    Args:
        changes: config keys of that family, over the defaults here.
    """
    settings = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,  # a tied random model only repeats its last token
        **_FAMILIES.get(family, {}),
        **_MORE.get(family, {}),
        **changes,
    }
    if kinds := settings.get("layer_types"):
        settings["layer_types"] = [kinds[layer % len(kinds)] for layer in range(layers)]
    name = "gemma3_text" if family == "gemma3" else family
    config = CONFIG_MAPPING[name](**{key: value for key, value in settings.items() if value is not None})
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _enlarge(model, small_embeddings=family.startswith("gemma"))
    torch.random.set_rng_state(state)
    return model.to(dtype).eval()


def _enlarge(model: PreTrainedModel, *, small_embeddings: bool) -> None:
    """Draw weights anew. Gemma multiplies embeddings by sqrt(hidden): unless small, they would drown the blocks.

    A gain of 1.5 would blow rounding up to 1e-5 in log-odds on some CPUs; at 1.2 steering shows as well.
    """
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if any(part in key for part in ("embed", "wte", "wpe")):
                weight.normal_(0, 0.06 if small_embeddings else 0.5)
            elif weight.ndim > 1:
                weight.normal_(0, 1.2 / weight.shape[-1] ** 0.5)
            elif "norm" not in key and "ln_" not in key:
                weight.normal_(0, 0.1)


def choice_prompts(
    lengths: Sequence[int], *, steered: int = 2, options: int = 2, vocab: int = 97, seed: int = 0
) -> list[ChoicePrompt]:
    """Random prompts of these lengths; the last `steered` tokens are from the first steered position on."""
    generator = torch.Generator().manual_seed(seed)
    return [
        ChoicePrompt(
            ids=tuple(torch.randint(3, vocab, (length,), generator=generator).tolist()),
            first_position=length - steered,
            candidates=tuple(range(5, 5 + options)),
        )
        for length in lengths
    ]
