"""What a vector says in words, and where a text runs along it: both read from the model itself.

Shapes: L layers, D hidden size, T tokens of the text, K top tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from caa_bench.engine.capture import kept_outputs
from caa_bench.engine.steer import hidden_of, with_hidden
from caa_bench.models.blocks import blocks, frozen, input_device
from caa_bench.models.prompts import encode_messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOP = 10


def lens_table(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: Tensor, *, top: int = TOP
) -> pd.DataFrame:
    """The tokens that each layer's vector and its opposite would say, were they the last block's whole output.

    The last block's output is replaced, so that the final norm and whatever else stands before the logits is the
    model's own.

    Args:
        vectors: [L, D]
        top: K.

    Returns:
        Columns `layer, direction` (along or against it), `rank` (from 1), `token, token_id, logit`.
    """
    lines = []
    for direction, sign in (("along", 1.0), ("against", -1.0)):
        logits = _read_out(model, sign * vectors)
        values, ids = logits.topk(min(top, logits.shape[-1]), dim=-1)
        lines += [
            {
                "layer": layer,
                "direction": direction,
                "rank": rank + 1,
                "token": tokenizer.decode([token]),
                "token_id": token,
                "logit": logit,
            }
            for layer, (tokens, said) in enumerate(zip(ids.tolist(), values.tolist(), strict=True))
            for rank, (token, logit) in enumerate(zip(tokens, said, strict=True))
        ]
    return pd.DataFrame(lines)


def projection_table(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: Tensor, *, text: str, layer: int
) -> pd.DataFrame:
    """How far each token of a user's message lies along the layer's vector: its block output . unit vector.

    Args:
        vectors: [L, D]
        text: what the user says; the chat template is put around it.

    Returns:
        Columns `position, token, token_id, layer, projection`, one line a token of the whole prompt. [T]
    """
    ids = encode_messages(tokenizer, [{"role": "user", "content": text}])
    with frozen(model), kept_outputs(model, layer=layer) as kept:
        model(input_ids=torch.tensor([ids], device=input_device(model)), use_cache=False)
    unit = vectors[layer] / vectors[layer].norm()
    along = (kept[0][0] @ unit).tolist()
    return pd.DataFrame(
        {
            "position": range(len(ids)),
            "token": [tokenizer.decode([token]) for token in ids],
            "token_id": ids,
            "layer": layer,
            "projection": along,
        }
    )


def _read_out(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Logits of hidden states, through what the model does after its last block. [L, D] -> [L, vocabulary]"""

    def replace(_: Any, __: Any, output: Any) -> Any:
        return with_hidden(output, states[:, None].to(hidden_of(output)))

    handle = blocks(model)[-1].register_forward_hook(replace)
    try:
        with frozen(model):
            ids = torch.zeros((len(states), 1), dtype=torch.long, device=input_device(model))
            return model(input_ids=ids, use_cache=False).logits[:, -1].float().cpu()
    finally:
        handle.remove()
