"""Load a model and its tokenizer (dtype, 4/8-bit, device_map, revision, template): safetensors only, no remote code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.errors import UserError
from caa_bench.models import hub
from caa_bench.models.adapters import with_adapter
from caa_bench.models.memory import out_of_memory
from caa_bench.models.pieces import split_otherwise
from caa_bench.models.templates import apply_template
from caa_bench.models.turns import PROBE_QUESTION, answer_form
from caa_bench.models.weights import refuse_other_weights, refuse_untried
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.models.model import ChatModel

_log = logging.getLogger(__name__)
PLAIN_TEMPLATE = "caa_base"
"""What a tokenizer without a chat template gets, and is said to get."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded: the keys of `configs/models/*.yaml`, and the recipe section `loading` to change them.

    Args:
        source: local folder of a model or of an adapter, a `.gguf` file, a hub name, or `package:tiny` for the embedded
            model.
        adapter: folder of a LoRA adapter that is added to the weights; MODEL=FOLDER of one sets both.
        revision: hub branch, tag or commit; pin it when you publish numbers.
        dtype: `auto` is the checkpoint's own, but on a CPU that is slower in it float32; bfloat16 halves memory.
        quantization: `4bit` (NF4) or `8bit` through bitsandbytes, or `none`.
        device_map: `auto` spreads a large model over GPUs, CPU and disk; `none` takes one device.
        parallel: `tensor` cuts every layer into slices, one for each process that torchrun started (`docs/scaling.md`).
        template: a plain template in place of the model's own (`caa_base`); `none` takes its own, and `caa_base` where
            it has none.
        layer: the block to steer by default; null: the stated fraction of the depth.
        layer_range: first and last block of `caa.layers: range`; null: the stated fractions of the depth.
        memory_gb: what loading it needs, for the user's information.
        swept: who found `layer` by trying others; empty: nobody has, and `tune: auto` searches on this model.
        tuned: what `caa-bench tune --save` found: `<vector>/<behavior>` -> layer and multiplier, which `tune: auto`
            takes in place of a search.
    """

    source: str = ""
    adapter: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    device_map: Literal["none", "auto"] = "none"
    parallel: Literal["none", "tensor"] = "none"
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
    """Load weights as `chat.loading` says; safetensors or GGUF only, no remote code; refuse what is not all there.

    Raises:
        UserError: the model cannot be found or reached, is not whole or no causal model, or the machine lacks what the
            settings need.
    """
    if chat.loading.parallel == "none":
        return _loaded(chat)
    from caa_bench.models.tensor_parallel import loaded_together

    return loaded_together(chat, _loaded)


def _loaded(chat: ChatModel) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():  # in a file a bar is a long line of control characters
        disable_progress_bar()
    model, info = _from_pretrained(
        AutoModelForCausalLM,
        chat,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are named below, with both shapes
        **_settings(chat),
    )
    refuse_other_weights(chat.source, info)
    if chat.loading.adapter is not None:
        model = with_adapter(model, chat.loading.adapter)
    for module in model.modules():
        # bitsandbytes repacks 4-bit weights on such CPUs in eval mode; every later QLoRA gradient would be exactly 0
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    try:
        refuse_untried(chat.source, model.eval(), chat.tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise _unloadable(chat, error) from error
    rows = model.get_input_embeddings().num_embeddings
    if (chat.tokenizer.pad_token_id or 0) >= rows:  # a tokenizer's class may bring its own, which training pads with
        chat.tokenizer.pad_token = chat.tokenizer.eos_token
    return model


def load_tokenizer(chat: ChatModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer and its chat template, and try once where the template's answers begin.

    One without a chat template gets the plain one, which is said in a line.

    Raises:
        UserError: it cannot be found, reached or read, or nothing says where an answer begins.
    """
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, chat)
    template = chat.loading.template
    if template == "none" and tokenizer.chat_template is None:
        template = PLAIN_TEMPLATE
        _log.warning(
            "model: the tokenizer of %s has no chat template; it gets the plain one, %s (Input: ... Response: ...)",
            terminal_safe(chat.source),
            template,
        )
    if template != "none":
        apply_template(tokenizer, template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if probe := split_otherwise(tokenizer, Path(chat.source)):
        _log.warning(
            "model: %s has no tokenizer.json, and what transformers makes of its tokenizer.model splits %r otherwise "
            "than sentencepiece does: numbers differ a little from those with the published tokenizer; put its "
            "tokenizer.json beside it",
            terminal_safe(chat.source),
            probe,
        )
    answer_form(tokenizer)
    try:
        tokenizer.decode(tokenizer(PROBE_QUESTION, add_special_tokens=False)["input_ids"])
    except Exception as error:  # a setting of another type (model_max_length: "x") is noticed at the first text
        raise _unloadable(chat, error) from error
    return tokenizer


def _settings(chat: ChatModel) -> dict[str, Any]:
    """dtype, quantization and devices, as transformers takes them."""
    import torch

    loading, dtype = chat.loading, chat.dtype
    if dtype.said:
        _log.warning("model: %s: %s", terminal_safe(chat.name), dtype.said)
    settings: dict[str, Any] = {"dtype": "auto" if dtype.dtype == "auto" else getattr(torch, dtype.dtype)}
    if loading.quantization != "none":
        settings["quantization_config"] = _quantization(loading)
    if loading.parallel != "none":
        from caa_bench.models import tensor_parallel

        settings |= tensor_parallel.settings()
    elif loading.device_map != "none":
        settings["device_map"] = loading.device_map
    elif torch.cuda.is_available():
        settings["device_map"] = {"": 0}
    elif torch.backends.mps.is_available():
        settings["device_map"] = {"": "mps"}
    return settings


def _from_pretrained(auto: Any, chat: ChatModel, **settings: Any) -> Any:
    """From the local folder or cache first, then from the hub, which is asked briefly whether it would answer."""
    settings |= {"revision": chat.loading.revision, "trust_remote_code": False}
    try:
        return _made(auto, chat, local_files_only=True, **settings)
    except (OSError, ValueError) as error:
        # what is wrong with a folder no download mends
        if Path(chat.source).exists():
            raise _unloadable(chat, error) from error
    hub.require(chat.source, revision=chat.loading.revision)
    try:
        return _made(auto, chat, **settings)
    except (OSError, ValueError) as error:
        raise _unloadable(chat, error) from error


def _made(auto: Any, chat: ChatModel, **settings: Any) -> Any:
    """`from_pretrained`; whatever the libraries raise of a damaged model is one line, but OSError and ValueError."""
    try:
        with _silent():
            if (file := chat.gguf) is not None:
                return auto.from_pretrained(str(file.parent), gguf_file=file.name, **settings)
            return auto.from_pretrained(chat.source, **settings)
    except (OSError, ValueError):  # not in the cache, perhaps
        raise
    except Exception as error:
        if out_of_memory(error):
            raise UserError(
                f"model: {chat.name!r} does not fit on the device; use its -4bit config or loading.quantization=4bit, "
                "or loading.device_map=auto to spread it"
            ) from error
        raise _unloadable(chat, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizers library, and no Exception
            raise
        raise _unloadable(chat, error) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' table of what it made up off the screen: `refuse_other_weights` says it in a line."""
    from transformers.utils import logging as noise

    level = noise.get_verbosity()
    noise.set_verbosity_error()
    try:
        yield
    finally:
        noise.set_verbosity(level)


def _unloadable(chat: ChatModel, error: BaseException) -> UserError:
    why = terminal_safe(hub.first_line(error))
    return UserError(
        f"model: transformers cannot load {chat.source!r} ({why}); check that the model is complete "
        "and one that this version of transformers knows"
    )


def _quantization(loading: Loading) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if loading.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if loading.dtype == "auto" else getattr(torch, loading.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
