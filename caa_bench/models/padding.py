"""Which prompts may stand in one forward: tried once a model, whether padding in front of a prompt changes its logits.

A recurrent model without a mask (RWKV) reads padding as words; its prompts then stand with others of their own length.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from caa_bench.models.blocks import base_model, frozen, input_device, text_config

_TOKENS, _PADS = 8, 3
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def may_pad(model: nn.Module) -> bool:
    """True where a left-padded prompt has the logits that it has alone."""
    key = base_model(model)
    if key not in _known:
        with frozen(model):
            _known[key] = _trial(model)
    return _known[key]


def _trial(model: nn.Module) -> bool:
    """One short prompt alone and behind padding. A model that gives no numbers fails where it is measured."""
    vocab = int(text_config(model).vocab_size)
    words = [(7 * place + 5) % vocab for place in range(_TOKENS)]
    last = []
    for pads in (0, _PADS):
        place = torch.arange(-pads, _TOKENS, device=input_device(model))[None]
        ids = torch.tensor([[0] * pads + words], device=place.device)
        output = model(
            input_ids=ids,
            attention_mask=(place >= 0).long(),
            position_ids=place.clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        )
        last.append(output.logits[0, -1].float())
    apart, spread = float((last[0] - last[1]).abs().mean()), float(last[0].std())
    precise = next(one.dtype for one in model.parameters() if one.is_floating_point()) == torch.float32
    allowed = (1e-3 if precise and not getattr(model, "is_quantized", False) else 0.25) * spread + 1e-6
    return not apart > allowed
