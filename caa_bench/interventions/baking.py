"""An intervention as plain weights of the model, where weights can hold it; refused with the reason where they cannot.

What changes a linear layer into another linear layer (LoRA and its kin at any dose, full finetuning) has exact weights.
An addition to a block's output has them only if it acts at every position: it is a bias of the block's last projection,
where the architecture has room for one. CAA's own rule, from the instruction's last token on, is in no weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from caa_bench.engine.edit import Edit

INSTEAD = "caa-bench export keeps it with code that runs it"


@dataclass(frozen=True, kw_only=True)
class Baking:
    """How an intervention becomes weights.

    Args:
        arm: the fitted intervention.
        condition: its dose.
        edits: the additions, at every position, that become biases; None where the arm's own modules are merged.
        exact: whether the weights do what the arm does, at the same positions.
    """

    arm: Intervention
    condition: Condition
    edits: tuple[Edit, ...] | None
    exact: bool

    @property
    def operation(self) -> str:
        """What was done to the weights, in a sentence."""
        if self.edits is None:
            return f"every weight that {self.arm.label} changes is replaced by the changed one, at dose {self._dose}"
        layers = ", ".join(str(edit.layer) for edit in self.edits)
        return f"{self._dose} times the vector is added to the bias of the MLP's last projection in block {layers}"

    @property
    def _dose(self) -> str:
        return f"{self.condition.multiplier:g}"


def baking_of(arm: Intervention, condition: Condition, *, everywhere: bool = False) -> Baking:
    """How an intervention can become weights; asks no model.

    Args:
        arm: fitted.
        condition: its dose.
        everywhere: take an addition that begins at the instruction's end as one at every position, which is another
            intervention.

    Raises:
        UserError: no weights do what it does.
    """
    from caa_bench.engine.changes import Add, Project

    if condition.multiplier == 0:
        raise UserError(f"{arm.label}: dose 0 is the model as it is; give another --multiplier")
    edits = arm.edits(condition)
    if edits is None:
        return Baking(arm=arm, condition=condition, edits=None, exact=True)
    if not edits:
        raise UserError(f"{arm.label}: changes the conversation and no weight; put its text before your conversations")
    if any(isinstance(edit.change, Project) for edit in edits):
        raise UserError(
            f"{arm.label}: acts between blocks; weights that never write along its direction would also change what "
            f"each MLP reads from the attention beside it; {INSTEAD}"
        )
    if any(not isinstance(edit.change, Add) or edit.site != "block" for edit in edits):
        raise UserError(f"{arm.label}: is no addition to a block's output, and no weights do what it does; {INSTEAD}")
    exact = all(edit.positions == "all" for edit in edits)
    if not exact and not (everywhere and all(edit.is_plain for edit in edits)):
        rule = "begins at the last token of the instruction" if edits[0].is_plain else "acts at some positions alone"
        hint = "--everywhere bakes that and measures what differs; " if edits[0].is_plain else ""
        raise UserError(f"{arm.label}: {rule}, and a bias in the weights acts at every position; {hint}{INSTEAD}")
    spread = tuple(replace(edit, positions="all") for edit in edits)
    return Baking(arm=arm, condition=condition, edits=spread, exact=exact)


def refuse_family(model: nn.Module, baking: Baking) -> None:
    """Refuse an architecture without room for the bias.

    Args:
        model: the model, or an empty one on the meta device.

    Raises:
        UserError: the block's last projection has no bias, and the config has no key that gives it one.
    """
    for edit in baking.edits or ():
        if _last_projection(model, edit.layer).bias is None and not _takes_biases(model):
            raise UserError(
                f"{baking.arm.label}: the config of {_family_of(model)} has no place for a bias at the end of a "
                "block (the Llama family has one, mlp_bias), so that plain weights cannot hold the vector; " + INSTEAD
            )


def bake_into(model: PreTrainedModel, baking: Baking) -> list[str]:
    """Change the weights, for good.

    Args:
        model: in float32, and nobody else's: nothing is put back.

    Returns:
        The names of the modules and weights that were changed.

    Raises:
        UserError: the intervention changes something that is no linear layer.
    """
    if baking.edits is None:
        return _merge(model, baking)
    return [_add_bias(model, edit.layer, edit.change.delta) for edit in baking.edits]  # type: ignore[attr-defined]


def _merge(model: PreTrainedModel, baking: Baking) -> list[str]:
    """Each weight as it is under `attach`, and each hooked linear layer as the linear layer that it then is."""
    from caa_bench.models.blocks import frozen

    hooks = {name: _hooks(module) for name, module in model.named_modules()}
    own = {name: weight.data for name, weight in model.named_parameters()}
    with frozen(model), baking.arm.attach(model, baking.condition):
        inside = {name: weight.data for name, weight in model.named_parameters()}
        layers = {
            name: _as_linear(module, name, baking)
            for name, module in model.named_modules()
            if _hooks(module) > hooks[name]
        }
    changed = [name for name, weight in own.items() if not inside[name].equal(weight)]
    for name, weight in model.named_parameters():
        weight.data = inside[name]
    for name, (matrix, bias) in layers.items():
        module: Any = model.get_submodule(name)
        module.weight.data.copy_(matrix)
        if module.bias is not None:
            module.bias.data.copy_(bias)
        elif bool(bias.any()):
            raise UserError(f"{baking.arm.label}: adds a bias to {name}, which has none; {INSTEAD}")
    return [*changed, *layers]


def _as_linear(module: nn.Module, name: str, baking: Baking) -> tuple[Tensor, Tensor]:
    """The weight and bias that give what a hooked linear layer gives: its answers to the unit vectors and to zero.

    The layer's own bias is set to zero while the weight is read, for a large one would take digits from it.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, nn.Linear | Conv1D):
        raise UserError(f"{baking.arm.label}: changes {name}, a {type(module).__name__} and no linear layer; {INSTEAD}")
    weight = module.weight
    width = weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]
    bias = module(torch.zeros(1, 1, width, dtype=weight.dtype, device=weight.device))[0, 0]
    kept = None if module.bias is None else module.bias.data
    try:
        if kept is not None:
            module.bias.data = torch.zeros_like(kept)
        rows = module(torch.eye(width, dtype=weight.dtype, device=weight.device)[None])[0]  # [in, out]
    finally:
        if kept is not None:
            module.bias.data = kept
    return (rows if isinstance(module, Conv1D) else rows.T).clone(), bias.clone()


def _add_bias(model: nn.Module, layer: int, delta: Tensor) -> str:
    """Add to the bias of a block's last projection; where the blocks have none, all get one, of zeros elsewhere."""
    last = _last_projection(model, layer)
    if last.bias is None:
        _give_biases(model)
    last.bias.data += delta.to(last.bias.device, last.bias.dtype)
    return next(name for name, module in model.named_modules() if module is last)


def _give_biases(model: nn.Module) -> None:
    import torch
    from torch import nn

    from caa_bench.engine.sites import site_module
    from caa_bench.models.blocks import num_layers, text_config

    text_config(model).mlp_bias = True
    for layer in range(num_layers(model)):
        for module in site_module(model, layer, "mlp").modules():
            if isinstance(module, nn.Linear) and module.bias is None:
                weight = module.weight
                module.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device))


def _last_projection(model: nn.Module, layer: int) -> Any:
    """The linear layer that writes the MLP's output; whether it is the block's last word is measured afterwards."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from caa_bench.engine.sites import site_module

    try:
        inside = site_module(model, layer, "mlp").modules()
    except ValueError:
        raise UserError(f"{_family_of(model)}: no MLP is found in block {layer}; {INSTEAD}") from None
    found = [module for module in inside if isinstance(module, nn.Linear | Conv1D)]
    if not found:
        raise UserError(f"{_family_of(model)}: the MLP of block {layer} has no linear layer; {INSTEAD}")
    return found[-1]


def _takes_biases(model: nn.Module) -> bool:
    from caa_bench.models.blocks import text_config

    return getattr(text_config(model), "mlp_bias", None) is False


def _family_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)
