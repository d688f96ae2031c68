"""Continuations of many prompts under many conditions, decoded together.

Shapes: N prompts, C conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from caa_bench.engine.blocks import blocks, frozen, input_device
from caa_bench.engine.edit import Edit
from caa_bench.engine.steer import check_layers, steered
from caa_bench.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What one row said.

    Args:
        ids: new token ids, without the stop token.
        ended: `"stop"`, a stop token came; `"length"`, `max_new_tokens` were made.
    """

    ids: tuple[int, ...]
    ended: Literal["stop", "length"]


def generate(
    model: nn.Module,
    prompts: Sequence[Prompt],
    conditions: Sequence[Sequence[Edit]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 0.0,
    seeds: Sequence[Sequence[int]] | None = None,
    batch_size: int = 16,
) -> list[list[Continuation]]:
    """Continue every prompt under every condition.

    Args:
        temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature).
        seeds: of each row's own generator, [N][C]; needed when temperature is above 0. A row's text is a function of
            its prompt, condition and seed, whatever it is decoded beside.
        batch_size: prompts decoded together; each brings a row a condition.

    Returns:
        `[N][C]` continuations.
    """
    if temperature > 0 and seeds is None:
        raise ValueError("temperature is above 0: give seeds, one a row")
    for edits in conditions:
        check_layers(edits, len(blocks(model)))
    with frozen(model):
        return [
            [
                _one(model, prompt, edits, max_new_tokens, set(stop_ids), temperature, seeds and seeds[n][c])
                for c, edits in enumerate(conditions)
            ]
            for n, prompt in enumerate(prompts)
        ]


def _one(
    model: nn.Module,
    prompt: Prompt,
    edits: Sequence[Edit],
    length: int,
    stops: set[int],
    temperature: float,
    seed: int | None,
) -> Continuation:
    ids = list(prompt.ids)
    device = input_device(model)
    generator = torch.Generator().manual_seed(seed or 0)
    new: list[int] = []
    cache = None
    with steered(model, edits, [prompt]):
        chunk = ids
        while len(new) < length:
            seen = len(ids) + len(new)
            output = model(
                input_ids=torch.tensor([chunk], device=device),
                position_ids=torch.arange(seen - len(chunk), seen, device=device)[None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            token = pick(output.logits[0, -1].float().cpu(), temperature, generator)
            if token in stops:
                return Continuation(ids=tuple(new), ended="stop")
            new.append(token)
            chunk = [token]
    return Continuation(ids=tuple(new), ended="length")


def pick(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The next token of one row. logits: [V] fp32"""
    if temperature <= 0:
        return int(logits.argmax())
    heap = (logits.double() / temperature).softmax(-1).cumsum(-1)
    draw = torch.rand((), generator=generator, dtype=torch.float64) * heap[-1]
    return int(torch.searchsorted(heap, draw).clamp(max=len(heap) - 1))
