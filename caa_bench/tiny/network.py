"""The embedded model as a network: its config, and a forward pass that plants vectors group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caa_bench.tiny.batch import Batch
from caa_bench.tiny.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

HIDDEN, BLOCKS, HEADS, INNER = 128, 6, 4, 384


@dataclass(kw_only=True)
class States:
    """What a forward pass gives.

    Args:
        outputs: every block's output before anything was planted in it. [L] of [B, T, D]
        final: after the final norm. [B, T, D]
    """

    outputs: list[Tensor]
    final: Tensor


def new_model(tokenizer_ids: tuple[int, int, int], *, seed: int) -> LlamaForCausalLM:
    """A randomly initialised model.

    Args:
        tokenizer_ids: BOS, EOS and padding ids.
        seed: of the weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    bos, eos, pad = tokenizer_ids
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    return LlamaForCausalLM(config).float()


def run(model: LlamaForCausalLM, batch: Batch, planted: dict[int, Tensor]) -> States:
    """Forward `batch`, adding `planted[layer][group]` to that block's output at every token of the group.

    Args:
        model: the model.
        batch: the batch.
        planted: by layer, one vector a group; row 0 (the prompt) is zero. each [G + 1, D]
    """
    decoder = model.model
    hidden = decoder.embed_tokens(batch.ids)
    rotary = decoder.rotary_emb(hidden, batch.positions)
    group = batch.group.clamp(min=0)
    outputs = []
    for i, block in enumerate(decoder.layers):
        hidden = block(hidden, attention_mask=batch.mask, position_embeddings=rotary)
        outputs.append(hidden)
        if i in planted:
            hidden = hidden + planted[i][group]
    return States(outputs=outputs, final=decoder.norm(hidden))


def token_logits(model: LlamaForCausalLM, states: Tensor) -> Tensor:
    """Logits of the given final states. [N, D] -> [N, V]"""
    return states @ model.model.embed_tokens.weight.T
