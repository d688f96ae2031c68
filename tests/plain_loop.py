"""Twenty plain lines that the engine is held equal to: one unpadded prompt, one condition, no cache, no batch.

Shares no code with the engine: it finds blocks by name and adds with a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caa_bench.engine.edit import Edit

_BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers")


@torch.no_grad()
def plain_forward(model, ids: Sequence[int], first: int, edits: Sequence[Edit] = ()) -> tuple[Tensor, Tensor]:
    """Logits at every position [T, V], and every block's output [L, T, D]."""
    outputs = []

    def hook(layer: int):
        def add(_module, _args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for edit in edits:
                if edit.layer == layer:
                    hidden[:, 0 if edit.first_position == "start" else first :] += edit.delta
            outputs.append(hidden[0])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return add

    names = dict(model.named_modules())
    blocks = next(names[name] for name in _BLOCKS if name in names)
    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(blocks)]
    try:
        logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, torch.stack(outputs)
