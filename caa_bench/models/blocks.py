"""A causal language model -> its decoder, its blocks, its sizes. Works for peft-wrapped and device-mapped models.

One place knows how a model is put together, so that nothing else names `model.layers` or `transformer.h`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a peft wrapper, or the model itself. LoRA layers live inside and stay active.

    Raises:
        ValueError: the active adapter adds virtual tokens (prompt or prefix tuning), which shifts every position.
    """
    config = getattr(model, "active_peft_config", None) if hasattr(model, "get_base_model") else None
    if config is not None and getattr(config, "is_prompt_learning", False):
        raise ValueError("adapters that add virtual tokens shift every position and cannot be used; use LoRA")
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def text_config(model: nn.Module) -> Any:
    """The config of the text decoder, also of a model that has other parts."""
    return base_model(model).config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]


def decoder(model: nn.Module) -> nn.Module:
    """The module that turns token ids into final hidden states (everything but the output head)."""
    whole = base_model(model)
    found: nn.Module = whole.get_decoder()  # type: ignore[operator]
    # ModernBERT's decoder calls its output head by that name
    return whole.base_model if isinstance(found, nn.Linear) else found  # type: ignore[return-value]


def num_layers(model: nn.Module) -> int:
    """How many decoder blocks there are; edits name them 0 .. num_layers - 1."""
    return int(text_config(model).num_hidden_layers)


def hidden_size(model: nn.Module) -> int:
    """D, the width of the hidden state between blocks."""
    return int(text_config(model).hidden_size)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, in order.

    Raises:
        ValueError: no list of modules in the decoder is as long as the config says it has layers.
    """
    count = num_layers(model)
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(base_model(model)).__name__}: no list of {count} decoder blocks found")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; puts every module's own training flag back on every exit path.

    `no_grad` and not `inference_mode`: a rotary buffer made under the latter breaks later training of the model.
    """
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go; the CPU where the embedding is offloaded (its parameters then sit on `meta`)."""
    device: torch.device = base_model(model).get_input_embeddings().weight.device  # type: ignore[operator]
    return torch.device("cpu") if device.type == "meta" else device
