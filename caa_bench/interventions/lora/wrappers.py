"""An adapter of any peft method on a model for the time of a block: peft's own modules compute, hooks put them in.

Nothing is merged, no weight changes, and the model's modules stay where they are, so that adapters nest in any order,
also with hooks and changed weights on the same modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from caa_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def adapted(
    model: PreTrainedModel, settings: Mapping[str, Any], state: Mapping[str, Tensor], *, multiplier: float = 1.0
) -> Iterator[PreTrainedModel]:
    """Inside, each adapted module gives y + multiplier * (y' - y): y its own output, y' what the adapter makes of it.

    Args:
        settings: of `adapter_config.json`.
        state: the adapter's tensors, by peft's keys.
        multiplier: 1 is as trained, 0 nothing.

    Raises:
        UserError: the adapter has tensors that find no place in this model, or is of a kind that cannot be put in.
    """
    with ExitStack() as hooks:
        for module, wrapper in _wrappers(model, settings, state) if multiplier else ():
            hook = _Through(module, wrapper, multiplier=multiplier)
            hooks.callback(module.register_forward_hook(hook, prepend=True, with_kwargs=True).remove)
        yield model


def not_in_slices(settings: Mapping[str, Any]) -> str:
    """Why an adapter cannot stand on a model in slices (`loading.parallel: tensor`); "" where it can.

    Args:
        settings: of `adapter_config.json`.
    """
    kind = "DORA" if settings.get("use_dora") else str(settings.get("peft_type"))
    if kind == "LORA":
        return ""
    return (
        f"peft cuts no {kind} into slices (loading.parallel), LoRA alone; take it out, or use loading.device_map=auto"
    )


class _Through:
    """Hook of one module: its output as the adapter makes it.

    Args:
        module: the model's own.
        wrapper: peft's around it.
        multiplier: the dose.
    """

    def __init__(self, module: nn.Module, wrapper: Any, *, multiplier: float) -> None:
        self.base = _Base(module)
        wrapper.base_layer = self.base
        self.wrapper, self.multiplier = wrapper.eval(), multiplier

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Any:
        if self.base.asking:  # the wrapper asks for the output at another input
            return None
        self.base.known = (args[0], output)
        changed: Tensor = self.wrapper(*args, **kwargs)
        self.base.known = None
        return changed if self.multiplier == 1 else output + self.multiplier * (changed - output)


class _Base(nn.Module):
    """What a wrapper of peft's holds as its base layer: the module as it is, with all hooks, its output computed once.

    Args:
        module: the model's own; no part of this one, so that its weights are not listed twice.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._of = (module,)
        self.known: tuple[Tensor, Tensor] | None = None
        self.asking = False

    def forward(self, given: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output that is known for this very input, else a new one (IA3 changes what goes into an MLP)."""
        if self.known is not None and given is self.known[0]:
            return self.known[1]
        self.asking = True
        try:
            return self._of[0](given, *args, **kwargs)
        finally:
            self.asking = False

    def __getattr__(self, name: str) -> Any:
        """Weights and sizes of the module, which some methods read (DoRA)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattribute__("_of")[0], name)


def _wrappers(
    model: PreTrainedModel, settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> list[tuple[nn.Module, Any]]:
    """Modules of the model, each with peft's wrapper that holds the adapter's weights; the model is left as it was."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import set_peft_model_state_dict

    from caa_bench.models.blocks import base_model

    plain: Any = base_model(model)
    if any(_is_wrapper(module) for module in plain.modules()):
        raise UserError("the model holds another adapter of peft's already; merge that one into its weights first")
    config = PeftConfig.from_peft_type(**{**settings, "inference_mode": True, "base_model_name_or_path": None})
    if config.is_prompt_learning:
        raise UserError("the adapter adds virtual tokens, which shift every position; use one that changes modules")
    with unwrapped_afterwards(plain):
        try:
            wrapped = get_peft_model(plain, config)
            stray = set_peft_model_state_dict(wrapped, dict(state)).unexpected_keys
            found = [module for module in plain.modules() if _is_wrapper(module)]
            whole = [name for name, module in plain.named_modules() if _is_copy(module)]
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"peft cannot put the adapter onto this model ({str(error).splitlines()[0]})") from error
    if whole:
        raise UserError(f"{whole[0]} is kept whole beside the adapter (modules_to_save), which is not supported")
    if stray or not found:
        name = stray[0] if stray else next(iter(state), "the adapter")
        raise UserError(f"{name} has no place in this model; give an adapter of this very model")
    return [(one.base_layer, one) for one in found]


@contextmanager
def unwrapped_afterwards(model: PreTrainedModel) -> Iterator[None]:
    """Whatever peft puts around the model's modules inside is taken out again, and nothing else is left either."""
    from caa_bench.interventions.lora.quiet import quiet_training
    from caa_bench.models.traceless import leaves_no_trace

    places = {id(child): (parent, leaf) for parent in model.modules() for leaf, child in parent._modules.items()}
    with quiet_training(), leaves_no_trace(model):
        try:
            yield
        finally:
            for module in [module for module in model.modules() if _is_wrapper(module) or _is_copy(module)]:
                own = module.original_module if _is_copy(module) else module.base_layer
                if id(own) in places:
                    parent, leaf = places[id(own)]
                    parent._modules[leaf] = own


def _is_wrapper(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _is_copy(module: nn.Module) -> bool:
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(module, AuxiliaryTrainingWrapper)
