"""Load a model and its tokenizer (dtype, 4/8-bit, device_map, revision, template): safetensors only, no remote code."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.errors import UserError
from caa_bench.models import hub
from caa_bench.models.prompts import apply_template
from caa_bench.storage.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.models.model import ChatModel


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded: the keys of `configs/models/*.yaml`, and the recipe section `loading` to change them.

    Args:
        source: local folder, hub name, or `package:tiny` for the embedded model.
        revision: hub branch, tag or commit; pin it when you publish numbers.
        dtype: `auto` is the checkpoint's own; float32 is exact and slow, bfloat16 halves memory.
        quantization: `4bit` (NF4) or `8bit` through bitsandbytes, or `none`.
        device_map: `auto` spreads a large model over GPUs, CPU and disk; `none` takes one device.
        template: a plain template for models without a chat template (`caa_base`), or `none`.
        layer: the block to steer by default; null: the stated fraction of the depth.
        layer_range: first and last block of `caa.layers: range`; null: the stated fractions of the depth.
        memory_gb: what loading it needs, for the user's information.
        swept: who found `layer` by trying others; empty: nobody has, and `tune: auto` searches on this model.
        tuned: what `caa-bench tune --save` found: `<vector>/<behavior>` -> layer and multiplier, which `tune: auto`
            takes in place of a search.
    """

    source: str = ""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    device_map: Literal["none", "auto"] = "none"
    template: str = "none"
    layer: int | None = None
    layer_range: tuple[int, int] | None = None
    memory_gb: float | None = None
    swept: str = ""
    tuned: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layer_range is not None and not 0 <= self.layer_range[0] <= self.layer_range[1]:
            raise ValueError(f"layer_range: {list(self.layer_range)} is no range; write [first, last], counted from 0")


def tuned_key(vector: str, behavior: str) -> str:
    """A vector's and behavior's entry in `Loading.tuned`; a key of a YAML mapping holds no dot."""
    return f"{vector}/{behavior}".replace(".", "-")


def load_model(chat: ChatModel) -> PreTrainedModel:
    """Load weights as `chat.loading` says; safetensors only, no remote code.

    Raises:
        UserError: the model cannot be found or reached, or the machine lacks what the settings need.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():  # in a file a bar is a long line of control characters
        disable_progress_bar()
    loading = chat.loading
    settings: dict[str, Any] = {"dtype": loading.dtype if loading.dtype == "auto" else getattr(torch, loading.dtype)}
    if loading.quantization != "none":
        settings["quantization_config"] = _quantization(loading)
    if loading.device_map != "none":
        settings["device_map"] = loading.device_map
    elif torch.cuda.is_available():
        settings["device_map"] = {"": 0}
    try:
        model = _from_pretrained(AutoModelForCausalLM, chat, use_safetensors=True, **settings)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"model: {chat.name!r} does not fit on the device; use its -4bit config or loading.quantization=4bit, "
            "or loading.device_map=auto to spread it"
        ) from error
    for module in model.modules():
        # bitsandbytes repacks 4-bit weights on such CPUs in eval mode; every later QLoRA gradient would be exactly 0
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def load_tokenizer(chat: ChatModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer; give it the plain template that the model config names.

    Raises:
        UserError: it cannot be found or reached, or has no chat template and none is named.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, chat)
    if chat.loading.template != "none":
        apply_template(tokenizer, chat.loading.template)
    if tokenizer.chat_template is None:
        raise UserError(no_chat_template(chat.source))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def no_chat_template(source: str) -> str:
    """What to do about a tokenizer that has no chat template, in one line."""
    return (
        f"model: the tokenizer of {source!r} has no chat template; set loading.template=caa_base (the paper's plain "
        "template for base models), or give a model that was tuned for chat"
    )


def has_chat_template(folder: Path) -> bool:
    """Whether a tokenizer folder has one, in any of the files where transformers looks."""
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and "chat_template" in read_json(settings)


def _from_pretrained(auto: Any, chat: ChatModel, **settings: Any) -> Any:
    """From the local folder or cache first, then from the hub, which is asked briefly whether it would answer."""
    from safetensors import SafetensorError

    settings |= {"revision": chat.loading.revision, "trust_remote_code": False}
    try:
        return auto.from_pretrained(chat.source, local_files_only=True, **settings)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        # what is wrong with a folder, or with what this machine has installed, no download mends
        if Path(chat.source).is_dir() or isinstance(error, ImportError | SafetensorError):
            raise _unloadable(chat, error) from error
    hub.require(chat.source, revision=chat.loading.revision)
    try:
        return auto.from_pretrained(chat.source, **settings)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _unloadable(chat, error) from error


def _unloadable(chat: ChatModel, error: Exception) -> UserError:
    return UserError(
        f"model: transformers cannot load {chat.source!r} ({hub.first_line(error)}); check that the model is complete "
        "and one that this version of transformers knows"
    )


def _quantization(loading: Loading) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if loading.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if loading.dtype == "auto" else getattr(torch, loading.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
