"""Where in a decoder block an edit acts: a layer and a site -> the module. Families name these parts in a few ways."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from caa_bench.engine.edit import Edit, Site
from caa_bench.models.blocks import blocks

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "block_sparse_moe")
_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "wo")


def site_module(model: nn.Module, layer: int, site: Site) -> nn.Module:
    """The module whose output an edit changes; for `heads` the one whose input it changes.

    Raises:
        ValueError: the block has no such part, or none by a name that is known.
    """
    block = blocks(model)[layer]
    if site == "block":
        return block
    if site == "mlp":
        return _child(block, _MLP, site)
    attention = _child(block, _ATTENTION, site)
    return attention if site == "attention" else _child(attention, _PROJECTION, site)


def check_edits(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Raise ValueError for an edit of a place that is not there: it would change nothing, silently."""
    count = len(blocks(model))
    for edit in edits:
        if not 0 <= edit.layer < count:
            raise ValueError(f"layer ({edit.layer}) must be in 0..{count - 1}")
        if edit.site != "block":
            site_module(model, edit.layer, edit.site)


def _child(module: nn.Module, names: Sequence[str], site: Site) -> nn.Module:
    found = [child for name, child in module.named_children() if name in names]
    if len(found) != 1:
        raise ValueError(f"site {site}: {type(module).__name__} has none of {', '.join(names)}")
    return found[0]
