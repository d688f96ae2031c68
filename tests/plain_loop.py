"""Twenty plain lines that the engine is held equal to: one unpadded prompt, one condition, no cache, no batch.

Shares no code with the engine but the changes: it finds blocks by name and picks positions with a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caa_bench.engine.edit import Edit

_BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers")

_POSITIONS = {
    "instruction_end": lambda first: slice(first, None),
    "answer": lambda first: slice(first + 1, None),
    "prompt": lambda first: slice(first + 1),
    "all": lambda first: slice(None),
    "first:3": lambda first: slice(3),
}


@torch.no_grad()
def plain_forward(model, ids: Sequence[int], first: int, edits: Sequence[Edit] = ()) -> tuple[Tensor, Tensor]:
    """Logits at every position [T, V], and every block's output [L, T, D]."""
    outputs = []

    def hook(layer: int):
        def add(_module, _args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for edit in edits:
                if edit.layer == layer:
                    where = _POSITIONS[edit.positions](first)
                    hidden[:, where] = edit.change(hidden[:, where])
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
