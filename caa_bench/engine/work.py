"""How much forward work is done, and how much a sweep must cost at least: in token-layers, the honest unit.

A token-layer is one token that enters one decoder block, padding included. Tests assert this, never wall time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from caa_bench.engine.edit import Edit
from caa_bench.models.blocks import blocks, decoder
from caa_bench.models.prompts import Prompt


@dataclass(kw_only=True)
class Work:
    """What was computed while counting.

    Args:
        forwards: calls of the decoder.
        token_layers: tokens that entered blocks, padding included.
    """

    forwards: int = 0
    token_layers: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Work]:
    """Count what `model` computes inside; leaves no hook behind."""
    work = Work()

    def forward(*_: Any) -> None:
        work.forwards += 1

    def block(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        work.token_layers += (args[0] if args else kwargs["hidden_states"]).shape[:-1].numel()

    with ExitStack() as hooks:
        hooks.callback(decoder(model).register_forward_pre_hook(forward).remove)
        for layer in blocks(model):
            hooks.callback(layer.register_forward_pre_hook(block, with_kwargs=True).remove)
        yield work


def score_bound(prompts: Sequence[Prompt], conditions: Sequence[Sequence[Edit]], *, layers: int) -> int:
    """The least token-layers that a `score` of these needs, no padding: what a good engine comes within 1.1 of.

    P*N for the tokens before the first steered one, S*N for one unsteered pass over the steered ones, and S*(N-1-L) a
    condition for the blocks above the first one it changes (L from 0).
    """
    above = sum(layers - 1 - min(edit.follows for edit in edits) for edits in conditions if edits)
    return sum(len(prompt.ids) * layers + (len(prompt.ids) - prompt.first_position) * above for prompt in prompts)


def loop_cost(prompts: Sequence[Prompt], conditions: Sequence[Sequence[Edit]], *, layers: int) -> int:
    """Token-layers of the plain loop: every prompt in full, once a condition."""
    return sum(len(prompt.ids) for prompt in prompts) * layers * len(conditions)
