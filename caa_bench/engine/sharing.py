"""Whether a model may share prefixes: known obstacles by name, everything else by trying it once on a few tokens.

A wrong answer here would steer silently wrong, the commonest defect of the field; so no model is trusted by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit
from caa_bench.engine.forwards import full_logits, shared_logits
from caa_bench.engine.pack import Rows, Unshareable
from caa_bench.engine.positions import batch_of
from caa_bench.engine.prefix import split
from caa_bench.models.blocks import base_model, frozen, hidden_size, num_layers, text_config
from caa_bench.models.memory import out_of_memory
from caa_bench.models.prompts import Prompt
from caa_bench.models.rope import beyond_rope

_log = logging.getLogger(__name__)
_PLAIN = {"full_attention", "sliding_attention"}
_obstacles: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def can_share(model: nn.Module, prompts: Sequence[Prompt]) -> bool:
    """True if suffix passes on a frozen prefix give what full forwards give; the reason why not is logged once.

    Args:
        prompts: the first one lends its tokens for the trial.
    """
    if not prompts or beyond_rope(model, prompts):
        return False
    key = base_model(model)
    if key not in _obstacles:
        _obstacles[key] = _obstacle(model, prompts[0])
        if _obstacles[key]:
            _log.warning("%s: prompts are recomputed for every condition: %s", type(key).__name__, _obstacles[key])
    return not _obstacles[key]


def shareable(edits: Sequence[Edit]) -> bool:
    """True if nothing before the instruction's end changes, so that the prefix stays the same."""
    return all(edit.keeps_prefix for edit in edits)


def _obstacle(model: nn.Module, prompt: Prompt) -> str:
    """Why sharing would not be exact; empty if it is."""
    kinds = set(getattr(text_config(model), "layer_types", None) or []) - _PLAIN
    if kinds:
        return f"its blocks keep more than keys and values ({', '.join(sorted(kinds))})"
    if base_model(model).get_output_embeddings() is None:  # type: ignore[operator]
        return "it has no output head"
    try:
        with frozen(model):
            difference, spread = _trial(model, prompt)
    except Unshareable as reason:
        return str(reason)
    except Exception as error:  # a forward that takes no conditions side by side (GPT-BigCode counts its rows)
        if out_of_memory(error):
            raise
        return f"a trial failed ({type(error).__name__}: {error})".partition("\n")[0]
    precise = (
        next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()) == torch.float32
    )
    allowed = (1e-3 if precise and not getattr(model, "is_quantized", False) else 0.25) * spread
    # `not <=` also refuses NaN
    return "" if difference <= allowed else f"a trial differed by {difference:.3g} (logits spread {spread:.3g})"


def _trial(model: nn.Module, prompt: Prompt) -> tuple[float, float]:
    """Mean |difference| of logits between the two ways over a padded pair of short prompts, and their spread."""
    ids = (prompt.ids * 12)[:12]
    prompts = [Prompt(ids=ids, first_position=10), Prompt(ids=ids[3:], first_position=7)]
    last, wave = num_layers(model) - 1, torch.arange(hidden_size(model)).sin()
    conditions: list[list[Edit]] = [
        [],
        [Edit(0, Add(wave)), Edit(last, Add(-wave))],
        [Edit(last // 2, Add(-wave))],
    ]
    rows = Rows(conditions, num_layers(model))
    with batch_of(prompts):
        shared = shared_logits(model, split(model, prompts, suffix=2), rows)[:, rows.row_of]
    # each alone: where padding is not silent (BART's positions), both ways would be wrong alike
    alone = [torch.cat([full_logits(model, [one], edits) for one in prompts]) for edits in conditions]
    full: Tensor = torch.stack(alone, dim=1)
    return float((shared - full).abs().mean()), float(full.std())
