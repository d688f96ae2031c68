"""Leave a model, and the global generators, as they were."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def leaves_no_trace(model: PreTrainedModel) -> Iterator[None]:
    """Restore a model and the global generators as they were, however the block is left.

    peft freezes parameters and marks the model; SFTTrainer patches `forward` and switches to training mode for good.
    Weights are not copied: whoever changes them has to undo it.
    """
    import numpy as np
    import torch

    modules = {name: (module, _attributes(module)) for name, module in model.named_modules()}
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    configs = [(one.__dict__, copy.deepcopy(one.__dict__)) for one in _configs(model)]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the one that trl seeds
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for module, attributes in modules.values():
                _restore(module, attributes)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(gradients[name])
                parameter.grad = None
            for now, before in configs:
                now.clear()
                now.update(before)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _configs(model: PreTrainedModel) -> list[Any]:
    """What a trainer aligns with its tokenizer, in place."""
    return [one for one in (model.config, getattr(model, "generation_config", None)) if one is not None]


def _attributes(module: Any) -> dict[str, tuple[Any, Any]]:
    """A module's own attributes, each with a copy of what it holds where it is a dictionary (hooks)."""
    kept = ("_parameters", "_buffers", "_modules")
    return {k: (v, copy.copy(v) if isinstance(v, dict) else None) for k, v in vars(module).items() if k not in kept}


def _restore(module: Any, attributes: dict[str, tuple[Any, Any]]) -> None:
    own = vars(module)
    for key in [key for key in own if key not in attributes and key not in ("_parameters", "_buffers", "_modules")]:
        del own[key]
    for key, (value, held) in attributes.items():
        own[key] = value
        if held is not None:
            # in place: the handles of hooks that others installed refer to this very dictionary
            value.clear()
            value.update(held)
