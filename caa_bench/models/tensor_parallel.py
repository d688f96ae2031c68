"""A model whose layers are cut into slices, one a rank: transformers' tensor parallelism, `loading.parallel: tensor`.

    torchrun --nproc-per-node 4 -m caa_bench compare model=my-model loading.parallel=tensor

What goes from block to block is whole on every rank, and so are logits; only inside attention and MLP a rank has its
slice. Imported only where this is asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.models.ranks import LOADING_S, Held, Ranks

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

    from caa_bench.models.model import ChatModel

_SHOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral")
_HEADS = ("attention", "key_value")
_ranks: list[Ranks] = []
"""Those of this process, once it has joined them."""


def join() -> Ranks:
    """Find the other ranks; all of them call it once."""
    _ranks[:] = [Ranks()]
    return _ranks[0]


def ranks() -> Ranks:
    """Those that this process has joined.

    Raises:
        UserError: it has joined none.
    """
    if not _ranks:
        raise UserError(
            "loading.parallel: tensor is there in compare, sweep, fit and tune under torchrun; leave it out here"
        )
    return _ranks[0]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Every rank loads its slices of a model.

    Args:
        chat: the model, not loaded.
    """

    chat: ChatModel
    settling_s = LOADING_S

    def follow(self, held: Held) -> str:
        """As the first rank does it."""
        held.chat = self.chat
        held.known.clear()
        return type(self.chat.model).__name__


def loaded_together(chat: ChatModel, load: Callable[[ChatModel], PreTrainedModel]) -> PreTrainedModel:
    """`load(chat)` on all ranks; from then on the first one's forwards outside of their common tasks are refused.

    Raises:
        UserError: this process has joined no ranks.
    """
    own = ranks()
    if own.rank:
        model = load(chat)
    else:
        with own.together(Load(chat=replace(chat, _model=None, _tokenizer=None, _prompts={}))) as came:
            model = load(chat)
            came.append(type(model).__name__)
    from caa_bench.models.blocks import decoder

    if not own.rank:
        decoder(model).register_forward_pre_hook(_refuse_alone)
    decoder(model).register_forward_hook(lambda _, __, output: own.see(output[0]))
    return model


def settings() -> dict[str, Any]:
    """What `from_pretrained` takes: as many slices as ranks, each on its rank's device."""
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=ranks().count)}


def mistakes(chat: ChatModel) -> list[str]:
    """One line for each reason why a model cannot be cut into as many slices as there are ranks; nothing is loaded."""
    count, loading = int(os.environ.get("WORLD_SIZE", "1")), chat.loading
    if count == 1:
        return [
            "loading.parallel: tensor needs several processes; start it with torchrun --nproc-per-node N -m caa_bench"
        ]
    found = []
    if loading.quantization != "none":
        found.append("loading.parallel: quantized weights are not cut into slices; set loading.quantization=none")
    if loading.adapter is not None:
        found.append("loading.parallel: an adapter in the weights is not cut into slices; merge it into them first")
    if chat.gguf is not None:
        found.append("loading.parallel: a .gguf file is not read in slices; give the model as safetensors")
    if found or (config := chat._config_json()) is None:
        return found
    text = config.get("text_config") or config
    if line := _without_plan(str(config.get("model_type"))):
        return [line]
    heads = {name: text[f"num_{name}_heads"] for name in _HEADS if isinstance(text.get(f"num_{name}_heads"), int)}
    if any(number % count for number in heads.values()):
        shared = " and ".join(f"{number} {name.replace('_', '-')} heads" for name, number in heads.items())
        divisor = math.gcd(*heads.values())
        what = f"start {divisor} of them, or a divisor of that" if divisor > 1 else "use loading.device_map=auto"
        return [f"loading.parallel: {count} ranks cannot share {shared} evenly; {what}"]
    return []


def low_rank(module: nn.Module, given: Tensor, down: Tensor, up: Tensor, *, outputs: int) -> Tensor:
    """This rank's part of `B A x` of a linear module in slices. [..., in or part of it] -> [..., outputs]

    Where the module's outputs are cut, the same rows of B; where its inputs are cut, the same columns of A, and what
    the ranks make of their parts of x is added up, of the width of the rank of the update.

    Args:
        given: what this rank's slice of the module takes.
        down / up: A [rank, in] and B [out, rank], whole.
        outputs: how many this rank's slice of the module gives.

    Raises:
        UserError: the module is cut in another way.
    """
    import torch.distributed as dist
    from torch.nn.functional import linear

    if given.shape[-1] < down.shape[1]:
        low = linear(given, _own_part(module, down, dim=1))
        dist.all_reduce(low, group=_mesh(module).get_group())
    else:
        low = linear(given, down)
    return linear(low, up if outputs == up.shape[0] else _own_part(module, up, dim=0))


def side_by_side(head: nn.Linear, own: Tensor) -> Tensor:
    """The ranks' slices of an output head's logits put together. [N, own] -> [N, V]"""
    import torch
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((len(own), head.out_features))
    whole = DTensor.from_local(
        own, _mesh(head), [Shard(1)], run_check=False, shape=shape, stride=(head.out_features, 1)
    )
    return whole.full_tensor()


def _own_part(module: nn.Module, whole: Tensor, *, dim: int) -> Tensor:
    """This rank's slice of a matrix that is cut along a dimension as the module's weight [out, in] is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    weight = module.weight
    if not isinstance(weight, DTensor) or not weight.placements[0].is_shard(dim):
        raise UserError(
            f"loading.parallel: a {type(module).__name__} of this architecture is cut in a way that no adapter "
            "follows; use loading.device_map=auto"
        )
    # without a source rank nothing is sent: every rank takes its part of its own
    part: Tensor = distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None).to_local()
    return part


def _mesh(module: nn.Module) -> DeviceMesh:
    mesh: DeviceMesh = module.weight.device_mesh  # type: ignore[union-attr, assignment]
    return mesh


def _refuse_alone(_module: nn.Module, _args: tuple[Any, ...]) -> None:
    """A forward that the other ranks are not in would wait for them for ever."""
    if not ranks().busy:
        raise RuntimeError("the first rank alone cannot run a model that all ranks hold")


def _without_plan(family: str) -> str:
    """A line where transformers has no plan for cutting this architecture; "" where it has one."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def has(name: str) -> bool:
        try:
            return bool(getattr(CONFIG_MAPPING[name], "base_model_tp_plan", None))
        except (KeyError, ImportError, AttributeError):
            return False

    if family not in CONFIG_MAPPING or has(family) or has(f"{family}_text"):
        return ""
    return (
        f"loading.parallel: transformers has no tensor-parallel plan for {family!r}, as it has for "
        f"{', '.join(filter(has, _SHOWN))} and others; use loading.device_map=auto"
    )
