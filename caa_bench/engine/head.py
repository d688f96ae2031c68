"""A half-precision model's logits, not rounded to half precision: its output head's sums stay in float32.

In bfloat16 a logit near 18 is a multiple of .125, and so is every log-odds made of two of them. The hidden states are
as exact as the model makes them; only the last rounding is left out. Measured on Qwen2.5-Coder-0.5B-Instruct in
bfloat16, 40 questions: one question's log-odds is off by .018 (root mean square, from float32) and not by .061, a
vector's shift by .035 and not by .076.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from caa_bench.errors import UserError
from caa_bench.models.blocks import base_model

_HALF = (torch.bfloat16, torch.float16)
# Rows of the head that are turned to float32 at once: they stay in a CPU's cache.
_ROWS = 1024
_MM_TAKES_OUT_DTYPE = "out_dtype" in (torch.mm.__doc__ or "")  # on CUDA, from torch 2.8 on


@contextmanager
def float32_head(model: nn.Module) -> Iterator[None]:
    """Inside, the output head of a model in half precision gives float32; scaling and capping behind it follow.

    A head that is no plain linear layer (quantized, with an adapter) stays as it is, and so does one in float32.
    """
    head = base_model(model).get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear or head.weight.dtype not in _HALF:
        yield
        return
    # accelerate, where it spreads a model over devices, calls by this name what it wraps
    name = "_old_forward" if hasattr(head, "_hf_hook") else "forward"
    before = vars(head).get(name)
    setattr(head, name, partial(_linear, head))
    try:
        yield
    finally:
        if before is None:
            delattr(head, name)
        else:
            setattr(head, name, before)


def _linear(head: nn.Linear, hidden: Tensor) -> Tensor:
    """`head(hidden)` with sums and result in float32. [..., D] -> [..., V]"""
    weight, bias = head.weight, head.bias
    if in_slices := hasattr(weight, "to_local"):  # loading.parallel: this rank has some tokens of the vocabulary
        weight, bias = (None if one is None else one.to_local() for one in (weight, bias))
        if hidden.requires_grad:  # its gradient would be that of this rank's tokens alone
            raise UserError(
                "loading.parallel: what is learned by gradient needs loading.dtype=float32 there; set it, or fit in "
                "one process first"
            )
    logits: Tensor = _Sums.apply(hidden.reshape(-1, hidden.shape[-1]), weight)
    if bias is not None:
        logits = logits + bias.float()
    if in_slices:
        from caa_bench.models.tensor_parallel import side_by_side

        logits = side_by_side(head, logits)
    return logits.reshape(*hidden.shape[:-1], -1)


class _Sums(torch.autograd.Function):
    """flat W^T in float32. [N, D], [V, D] -> [N, V]

    The fast ways to it have no gradient of their own, which vectors need that are learned.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(flat, weight)
        if flat.is_cuda and _MM_TAKES_OUT_DTYPE:
            return torch.mm(flat, weight.T, out_dtype=torch.float32)
        wide = flat.float()
        logits = wide.new_empty(len(flat), len(weight))
        for start in range(0, len(weight), _ROWS):
            torch.mm(wide, weight[start : start + _ROWS].float().T, out=logits[:, start : start + _ROWS])
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (flat, weight), (gradient,) = ctx.saved_tensors, gradients
        found = gradient.new_zeros(len(gradient), weight.shape[1])
        for start in range(0, len(weight), _ROWS):
            found += gradient[:, start : start + _ROWS] @ weight[start : start + _ROWS].float()
        own = (gradient.T @ flat.float()).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return found.to(flat.dtype), own
