"""Edits as forward hooks: what the engine's fast path is held equal to, and what `Intervention.attach` uses.

Shapes: B rows of a forward, T tokens of it, D hidden size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from caa_bench.engine.edit import Edit, Site, by_place
from caa_bench.engine.positions import Positions, tracked
from caa_bench.engine.sites import check_edits, site_module

_attached: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()
"""Ids of the hooks of `steered` on each module, oldest first."""


@contextmanager
def steered(model: nn.Module, edits: Sequence[Edit]) -> Iterator[None]:
    """Inside, every forward of `model` is edited: the engine's, a plain or cached one, and `model.generate`.

    Where the engine runs, or inside `batch_of(prompts)`, an edit begins at each prompt's own `first_position`, whatever
    the order and the number of the rows. Around a plain transformers call, padded on either side, the first position of
    a row is the last token that is no padding (attention mask; without one, the last token) of the forward that begins
    with an empty cache; what is generated goes on from there through that cache. Blocks nest: the outer one acts first.

    Args:
        model: a causal language model of transformers, also inside peft.
        edits: of every row, applied in order.

    Raises:
        ValueError: an edit names a place that is not there; inside, a batch that does not fit its prompts, or a cache
            that was begun elsewhere, so that nobody knows where its prompts end.
    """
    # ahead: `output_hidden_states` collects with hooks too, and those must see the change
    with hooked(model, edits, ahead=True):
        yield


@contextmanager
def hooked(model: nn.Module, edits: Sequence[Edit], *, ahead: bool = False) -> Iterator[None]:
    """`steered` behind every hook that is there already, as the engine puts conditions on top of what is attached.

    Args:
        ahead: in front of all hooks but those of an outer `steered`.
    """
    check_edits(model, edits)
    acting = [edit for edit in edits if not edit.change.is_identity]
    with ExitStack() as hooks:
        if acting:
            positions = hooks.enter_context(tracked(model))
        for (layer, site), own in by_place(acting).items():
            handle = on_site(model, layer, site, _Edited(own, positions), ahead=ahead)
            hooks.callback(handle.remove)
            if ahead:
                hooks.callback(_keep_order(site_module(model, layer, site), handle))
        yield


def on_site(
    model: nn.Module, layer: int, site: Site, change: Callable[[Tensor], Tensor], *, ahead: bool = False
) -> RemovableHandle:
    """A hook that puts `change(hidden)` in place of the hidden state at a site.

    Args:
        ahead: before the hooks that are there already.
    """
    module = site_module(model, layer, site)
    if site == "heads":
        return module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    return module.register_forward_hook(
        lambda _, __, output: with_hidden(output, change(hidden_of(output))), prepend=ahead
    )


def hidden_of(output: Any) -> Tensor:
    """A block's hidden state: some families return it alone, some first in a tuple, OpenAI's first GPT in a list."""
    return output[0] if isinstance(output, tuple | list) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """The block's output with another hidden state, in the shape that the family returns."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden


def _keep_order(module: nn.Module, handle: RemovableHandle) -> Callable[[], None]:
    """Put older hooks of `steered` in front of a new one again, so that nested blocks act from the outside in."""
    mine = _attached.setdefault(module, [])
    hooks = cast("OrderedDict[int, Any]", module._forward_hooks)
    for older in reversed(mine):
        if older in hooks:  # those of `heads` are in another list, in order by themselves
            hooks.move_to_end(older, last=False)
    mine.append(handle.id)
    return lambda: mine.remove(handle.id)


class _Edited:
    """Apply the edits of one place, each at its own positions."""

    def __init__(self, edits: Sequence[Edit], positions: Positions) -> None:
        self.edits, self.positions = edits, positions

    def __call__(self, hidden: Tensor) -> Tensor:
        for edit in self.edits:
            changed = edit.change(hidden)
            where = self.positions.of(edit.positions, hidden)
            hidden = changed if where is None else torch.where(where, changed, hidden)
        return hidden
