"""Tiny random models of eleven families, for tests: real architectures, seeded weights, milliseconds a forward.

Weights are larger than a fresh model's, so that steering and attention change the logits visibly: a test on a model
whose every answer is the same would hold whatever the code does.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Sliding windows are 8 tokens, shorter than the prompts of the tests, so that they matter.
_FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {},
    "gpt_neox": {"num_key_value_heads": None},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
FAMILIES = tuple("gemma3" if name == "gemma3_text" else name for name in _FAMILIES)


def random_model(
    family: str,
    *,
    layers: int = 4,
    hidden: int = 64,
    vocab: int = 97,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A causal language model of one family (see `FAMILIES`), in evaluation mode; equal for equal arguments."""
    name = "gemma3_text" if family == "gemma3" else family
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
        **_FAMILIES[name],
    }
    if "layer_types" in settings:
        kinds = settings["layer_types"]
        settings["layer_types"] = [kinds[layer % len(kinds)] for layer in range(layers)]  # type: ignore[index, arg-type]
    config = CONFIG_MAPPING[name](**{key: value for key, value in settings.items() if value is not None})
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim > 1:
                embedding = any(part in key for part in ("embed", "wte", "wpe"))
                # Gemma multiplies its embeddings by sqrt(hidden): without this the blocks would hardly matter
                scale = (0.06 if "gemma" in name else 0.5) if embedding else 1.5 / weight.shape[-1] ** 0.5
                weight.normal_(0, scale)
            elif "norm" not in key and "ln_" not in key:
                weight.normal_(0, 0.1)
    torch.random.set_rng_state(state)
    return model.to(dtype).eval()
