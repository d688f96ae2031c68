"""How others do it: the plain CAA loop, batched recompute, plain extraction, one multiplier after another.

Shares nothing with the engine but the prompts. Shapes: N items, C conditions, L layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from caa_bench.engine.edit import Edit
from caa_bench.models.prompts import ChoicePrompt, Prompt

BATCH = 16


@contextmanager
def _added(model: nn.Module, edits: Sequence[Edit], first: int) -> Iterator[None]:
    """Add from one position of the forward on, as the published wrappers do."""

    def hook(delta: Tensor):
        def add(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, first:] += delta
            return output

        return add

    device, dtype = model.device, model.dtype
    handles = [model.model.layers[e.layer].register_forward_hook(hook(e.change.delta.to(device, dtype))) for e in edits]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def plain_loop(
    model: nn.Module, prompts: Sequence[ChoicePrompt], conditions: Sequence[Sequence[Edit]], *, all_positions: bool
) -> Tensor:
    """(a) One item, one condition at a time. Log-odds of the two letters, [N, C].

    Args:
        all_positions: logits at every position, as the published code computes them; else at the last one.
    """
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids], device=model.device)
        row = []
        for edits in conditions:
            with _added(model, edits, prompt.first_position):
                logits = model(ids, use_cache=False, logits_to_keep=0 if all_positions else 1).logits[0, -1].float()
            row.append(logits[prompt.candidates[0]] - logits[prompt.candidates[1]])
        rows.append(torch.stack(row))
    return torch.stack(rows).cpu()


@torch.no_grad()
def batched_recompute(
    model: nn.Module, prompts: Sequence[ChoicePrompt], conditions: Sequence[Sequence[Edit]]
) -> Tensor:
    """(b) Left-padded batches of 16 similar lengths, in full for every condition, last-position logits. [N, C]"""
    found = torch.zeros(len(prompts), len(conditions))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
    for start in range(0, len(order), BATCH):
        group = order[start : start + BATCH]
        ids, mask = left_padded([prompts[row] for row in group], model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        (first,) = {prompt.first_position - len(prompt.ids) for prompt in prompts}  # all end in the same steered tokens
        for column, edits in enumerate(conditions):
            with _added(model, edits, first):
                output = model(ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
            logits = output.logits[:, -1].float()
            for row, own in zip(group, logits, strict=True):
                a, b = prompts[row].candidates
                found[row, column] = own[a] - own[b]
    return found


@torch.no_grad()
def two_pass_extraction(model: nn.Module, prompts: Sequence[ChoicePrompt]) -> Tensor:
    """The plain way to vectors: one full pass for each letter, one text at a time. Mean difference, [L, D]"""
    kept: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, __, out: kept.append(out[0, -1])) for layer in model.model.layers]
    total = torch.zeros(len(handles), model.config.hidden_size)
    try:
        for prompt in prompts:
            for sign, letter in zip((1, -1), prompt.candidates, strict=True):
                model(torch.tensor([[*prompt.ids, letter]], device=model.device), use_cache=False)
                total += sign * torch.stack(kept).float().cpu()
                kept.clear()
    finally:
        for handle in handles:
            handle.remove()
    return total / len(prompts)


@torch.no_grad()
def hugging_face_generate(
    model: nn.Module, prompts: Sequence[Prompt], conditions: Sequence[Sequence[Edit]], *, tokens: int
) -> list[list[list[int]]]:
    """One multiplier after another: `model.generate` on the left-padded prompts under a hook. Token ids [C][N]"""
    ids, mask = left_padded(prompts, model.device)
    texts = []
    for edits in conditions:
        with _added(model, edits, -1):  # the last token of the prompt, then every new one
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        texts.append(out[:, ids.shape[1] :].tolist())
    return texts


def left_padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask. [B, T] each"""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(p.ids)) + list(p.ids) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=device)
    return ids, mask
