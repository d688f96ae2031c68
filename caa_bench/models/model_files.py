"""The files of a model folder that loading reads: which they are, what is wrong with them, and their checksums.

All of it without torch, within seconds: of the weights only the headers are read, which say each tensor's shape.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caa_bench.errors import UserError
from caa_bench.storage.files import read_json, sha256_file
from caa_bench.storage.paths import is_file
from caa_bench.storage.safe_text import terminal_safe

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SETTINGS = (CONFIG, "generation_config.json")
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
_COUNTED = (*LAYERS, *HIDDEN, *CONTEXT, "vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
# Larger than any model there is; a slip of the pen beyond it would fill the memory before anything could be said.
_MOST = {**dict.fromkeys(_COUNTED, 10**7), **dict.fromkeys(LAYERS, 10**4), **dict.fromkeys(CONTEXT, 10**9)}
# Quantized files pack up to 8 weights into a number; one matrix this many times larger than the file is a mistake that
# transformers would first fill with random values.
_PACKED = 32
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_WHOLE_NUMBERS = re.compile(r"[IU]\d+|BOOL")
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
_OTHER_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM", "RewardModel")


def read_config(path: Path) -> dict[str, Any]:
    """`config.json`, its sizes checked.

    Raises:
        UserError: not JSON, not an object, or a size that is no number or beyond any model's; one line.
    """
    shown = terminal_safe(str(path))
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(
            f"{shown}: holds {_found_kind(config)}, not a model's settings; take the file from the model again"
        )
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise UserError(
            f"{shown}: text_config is {_found_kind(text)}, not settings; take the file from the model again"
        )
    for key in _COUNTED:
        value = text.get(key)
        if value is None or (isinstance(value, list) and key.startswith("num_") and key not in LAYERS):
            continue  # some families have a number of heads a layer
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST[key]:
            raise UserError(
                f"{shown}: {key} is {str(json.dumps(value))[:40]}, where a number from 1 to {_MOST[key]:,} belongs; "
                "take the file from the model again"
            )
    return config


def size_in(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of these sizes that the config's text decoder has."""
    text = config.get("text_config", config)
    return next((int(text[key]) for key in keys if text.get(key) is not None), None)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that loading reads: the whole, or the shards that the index names.

    Raises:
        UserError: the index is damaged.
    """
    if is_file(folder / WEIGHTS) or not is_file(folder / INDEX):
        return [folder / WEIGHTS] if is_file(folder / WEIGHTS) else []
    index = read_json(folder / INDEX)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(
        isinstance(name, str) and _SHARD.fullmatch(name) for name in table.values()
    ):
        raise UserError(f"{terminal_safe(str(folder / INDEX))}: names no shards; download the model again")
    return [folder / name for name in sorted(set(table.values()))]


def loading_files(folder: Path) -> list[Path]:
    """Every file that decides what is loaded: settings, weights, tokenizer, chat template. Nothing else in the folder.

    Raises:
        UserError: the index of the shards is damaged.
    """
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    named = [folder / name for name in (*_SETTINGS, INDEX, *_TOKENIZER)]
    return [path for path in (*named, *weight_files(folder), *more) if is_file(path)]


def checksums(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 of every file that loading reads."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(loading_files(folder))}


def folder_mistakes(folder: Path) -> list[str]:
    """One line for each thing in a model folder that would make loading fail or go wrong.

    Raises:
        UserError: a file that says what there is cannot be read.
    """
    shown = terminal_safe(str(folder))
    for name in (*_SETTINGS, WEIGHTS, INDEX, *_TOKENIZER):
        path = folder / name
        if path.exists() and not path.is_file():  # a fifo would be waited for without end
            return [f"{terminal_safe(str(path))}: is no regular file; put the model's own there"]
    if not is_file(folder / CONFIG):
        return [f"model: {shown} holds no config.json; give the folder of a transformers model"]
    config = read_config(folder / CONFIG)
    files = weight_files(folder)
    if not files:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        what = "only pickled weights, which can run code when they are read" if pickled else "no weights"
        return [f"model: {shown} holds {what}; save it again with save_pretrained, which writes *.safetensors"]
    if gone := [path.name for path in files if not is_file(path)]:
        return [f"model: {shown} lacks {', '.join(gone)}, which {INDEX} names; download the model again"]
    named = config.get("architectures")
    named = named if isinstance(named, list) else [named]
    if other := [name for name in named if isinstance(name, str) and name.endswith(_OTHER_HEADS)]:
        return [f"model: {shown} is a {other[0]}, which cannot answer in words; give a model for text generation"]
    return _against_weights(shown, config, files)


def _against_weights(shown: str, config: dict[str, Any], files: list[Path]) -> list[str]:
    """What config.json says against the tensors' names, types and shapes."""
    stored: dict[str, Stored] = {}
    for path in files:
        held = tensors(path)
        if twice := sorted(stored.keys() & held):  # which of the two is read depends on the shards' order
            return [f"model: {shown}: {terminal_safe(twice[0])} stands in two shards; download the model again"]
        stored |= held
    whole = sorted(name for name, one in stored.items() if len(one.shape) == 2 and _WHOLE_NUMBERS.match(one.dtype))
    if whole and not config.get("quantization_config"):
        return [
            f"model: {shown}: {terminal_safe(whole[0])} is stored as whole numbers, and config.json names no "
            "quantization that says what they stand for; give the model's own config.json"
        ]
    return _against_shapes(shown, config, {name: one.shape for name, one in stored.items()})


def _against_shapes(shown: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The same of names and shapes alone."""
    numbers = {int(found[1]) for name in shapes if (found := _BLOCK.search(name))}
    count = size_in(config, LAYERS)
    if count is not None and numbers and count > max(numbers) + 1:
        return [
            f"model: {shown}: config.json says {count:,} layers and the weights hold {max(numbers) + 1}; the rest "
            "would be random, so give the weights of the whole model or its own config.json"
        ]
    hidden = size_in(config, HIDDEN)
    if hidden is not None and not any(hidden in shape for shape in shapes.values()):
        return [f"model: {shown}: config.json says {hidden:,} wide, and no tensor of the weights is; give its own"]
    stored = sum(math.prod(shape) for shape in shapes.values())
    for key in ("intermediate_size", "vocab_size"):
        value = size_in(config, (key,))
        if hidden is not None and value is not None and hidden * value > _PACKED * stored:
            return [
                f"model: {shown}: config.json says {key} {value:,}, and all weights together are {stored:,} numbers; "
                "give the config.json that belongs to them"
            ]
    return []


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor as a safetensors file's header describes it.

    Args:
        dtype: as safetensors calls it: F32, BF16, I8, ...
        shape: its sizes.
    """

    dtype: str
    shape: tuple[int, ...]


def tensors(path: Path) -> dict[str, Stored]:
    """Each tensor in a safetensors file by name, from its header.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if not 0 < size < min(path.stat().st_size, 10**8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
        return {
            name: Stored(dtype=str(entry["dtype"]), shape=tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"{terminal_safe(str(path))}: not a complete safetensors file ({terminal_safe(str(error))}); "
            "download it again"
        ) from None


def _found_kind(value: object) -> str:
    return "a list" if isinstance(value, list) else "a text" if isinstance(value, str) else "no object"
