"""Which modules a LoRA adapter sits on: taken from the model's own linear layers, and checked before weights load.

peft knows the targets of some architectures by name and of most not; a list of names is out of date with each new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from caa_bench.models.model import ChatModel

Asked = tuple[str, ...] | Literal["all-linear"]

SECTION = "lora_sft"
QUERY_AND_VALUE = frozenset(
    {"q_proj", "v_proj", "query", "value", "q", "v", "Wq", "Wv", "query_proj", "value_proj", "q_b_proj", "kv_b_proj"}
    | {"kv_proj", "query_key", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv"}  # one matrix for several
)
"""What queries and values of attention are called (arXiv 2106.09685, section 7.1: these two do best for their size)."""
BYPASSED = frozenset({"out_proj", "conv1d"})
"""Of state-space models: their kernels read these weights without calling the module and so see no adapter."""
USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3"})
"""Families known to have just the usual linear layers: checked without importing transformers, which takes seconds."""


EXPERTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that peft takes for the fused weights of experts where there are some: no hook can apply what it trains there.
The layers that still have these names, in dense blocks and shared experts, are left without an adapter."""


def targets(model: nn.Module, asked: Asked, *, section: str = SECTION) -> list[str]:
    """The modules to adapt, as peft takes them: last names where these are clear, else full names.

    Args:
        model: the model, or an empty one on the meta device.
        asked: last or full names, `all-linear`, or () for query and value.
        section: of the recipe that asks, for messages.

    Raises:
        UserError: a name that is no linear layer in the decoder blocks, or none is left.
    """
    linear = _linear_in_blocks(model, section)
    names = sorted({_last(name) for name in linear})
    chosen = _chosen(linear, asked, state_space=_state_space(model), family=_family(model), section=section)
    if wrong := mistakes(names, asked, others=_embeddings(model), section=section):
        raise UserError(*wrong)
    wanted = sorted({_last(name) for name in chosen})
    same = {name for name, _ in model.named_modules() if _last(name) in wanted}
    return wanted if same == set(chosen) else chosen


def mistakes(names: Sequence[str], asked: Asked, *, others: Sequence[str] = (), section: str = SECTION) -> list[str]:
    """One line for each asked name that no adapter can sit on.

    Args:
        names: last names of the linear layers in the blocks.
        others: names of the embeddings and the output head.
        section: of the recipe that asks, for messages.
    """
    if asked == "all-linear":
        return []
    lines = []
    for name in asked:
        if _last(name) in names:
            continue
        if _last(name) in others:
            what = "is an embedding or the output head, where an adapter would be trained and never applied"
        else:
            what = "is no linear layer in the blocks of this model"
        lines.append(f"{section}.target_modules: {name!r} {what}; use {', '.join(names)}, or all-linear")
    return lines


def check(chat: ChatModel, asked: Asked, *, section: str = SECTION) -> list[str]:
    """One line for each mistake, from the model's config alone: no weights are loaded, or even made.

    Args:
        chat: the model; nothing is said of one whose config is not on this machine yet.
        section: of the recipe that asks, for messages.
    """
    config = _config(Path(chat.source))
    if config is None:
        return []
    if config.get("model_type") in PLAIN:
        return mistakes(USUAL, asked, others=("embed_tokens", "lm_head"), section=section)
    empty = empty_model(chat.source)
    if empty is None:
        return []
    try:
        targets(empty, asked, section=section)
    except UserError as error:
        return list(error.lines)
    return []


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def empty_model(source: str) -> nn.Module | None:
    """The architecture on the meta device; None where loading will have something to say about it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:
        return None
    return model


def _chosen(linear: Sequence[str], asked: Asked, *, state_space: bool, family: str, section: str) -> list[str]:
    if asked == "all-linear":
        found = linear
    elif asked:
        found = [name for name in linear if any(f".{name}".endswith(f".{wanted}") for wanted in asked)]
        return list(found)
    else:
        attention = [name for name in linear if _last(name) in QUERY_AND_VALUE]
        found = attention or linear
    found = [name for name in found if not (state_space and _last(name) in BYPASSED)]
    if not found:
        raise UserError(
            f"{section}: {family} has no linear layer in its decoder blocks that an adapter could change; take "
            f"{section} out of bases"
        )
    return found


def _linear_in_blocks(model: nn.Module, section: str) -> list[str]:
    """Full names of the linear layers inside the text decoder's blocks; a picture's encoder is none of them.

    Raises:
        UserError: no blocks are found.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from caa_bench.models.blocks import blocks

    try:
        inside = {id(module) for block in blocks(model) for module in block.modules()}
    except (ValueError, AttributeError, NotImplementedError):
        raise UserError(
            f"{section}: no decoder blocks are found in {_family(model)}; take {section} out of bases"
        ) from None
    left_out = EXPERTS if _has_fused_experts(model) else ()
    return [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D) and _last(name) not in left_out
    ]


def _has_fused_experts(model: nn.Module) -> bool:
    return any(weight.ndim == 3 and _last(name) == "gate_up_proj" for name, weight in model.named_parameters())


def _embeddings(model: nn.Module) -> list[str]:
    from torch import nn

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [_last(name) for name, module in model.named_modules() if module is head or isinstance(module, nn.Embedding)]


def _family(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _state_space(model: nn.Module) -> bool:
    return any(hasattr(module, "A_log") for module in model.modules())


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
