"""An adapter's folder as a model: the base model that its settings name, with the update added to the weights.

Merged and not wrapped, so that vectors, prompts and further finetunes stand on it as on any other model.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.models.model_files import CONFIG, tensors
from caa_bench.storage.files import read_json
from caa_bench.storage.paths import is_file, is_folder
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def base_of(source: str) -> str | None:
    """The base model that an adapter's folder names; None where the source is no such folder.

    Raises:
        UserError: the settings name none, or the weights are not there.
    """
    folder = Path(source)
    if not is_file(folder / SETTINGS) or is_file(folder / CONFIG):
        return None
    shown, settings = terminal_safe(source), read_json(folder / SETTINGS)
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(f"{shown}/{SETTINGS}: names no base model; write it under base_model_name_or_path")
    if not is_file(folder / WEIGHTS):
        raise UserError(f"model: {shown} holds no {WEIGHTS}; save the adapter again with save_pretrained")
    # a relative path counts from the adapter's own folder where it leads somewhere from there
    beside = folder / base
    return str(beside) if not Path(base).is_absolute() and is_folder(beside) else base


def with_adapter(model: PreTrainedModel, source: str) -> PreTrainedModel:
    """The base model with an adapter's update added to its weights, every tensor of it used and none made up.

    Raises:
        UserError: it is no LoRA, a tensor of it has no place in the base model, or one that its settings ask for is not
            there.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it misses is said below in a line
            wrapped: Any = PeftModel.from_pretrained(model, source)
    except Exception as error:
        why = terminal_safe((str(error).strip() or type(error).__name__).splitlines()[0])
        raise UserError(
            f"model: peft cannot put the adapter {source!r} onto its base ({why}); give the base that it was trained on"
        ) from error
    stored, placed = set(tensors(Path(source) / WEIGHTS)), set(get_peft_model_state_dict(wrapped))
    if unused := sorted(stored - placed):
        raise UserError(
            f"model: the adapter {source!r} holds {unused[0]}, which its base has no place for; give the base that it "
            "was trained on"
        )
    # peft makes up what is not there, mostly as an update of zeros
    if missing := sorted(name for name in placed - stored if "lora_" in name):
        raise UserError(
            f"model: the adapter {source!r} lacks {missing[0]}, which its {SETTINGS} asks for; save the adapter again "
            "with save_pretrained"
        )
    if not hasattr(wrapped, "merge_and_unload"):
        raise UserError(f"model: the adapter {source!r} cannot be merged into its base; give a LoRA adapter")
    merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged
