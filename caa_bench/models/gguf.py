"""A `.gguf` file as a model: transformers dequantizes it; here are its header's sizes, without reading the rest.

Format: magic, version, counts of tensors and settings, then each setting as key, type and value (ggml's gguf.md).
"""

from __future__ import annotations

import importlib.util
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from caa_bench.errors import UserError
from caa_bench.storage.paths import is_file, is_folder
from caa_bench.storage.safe_text import terminal_safe

SUFFIX = ".gguf"
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 2**32
_NAMES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}


def gguf_file(source: str) -> Path | None:
    """The `.gguf` file that a model's source names: the file itself, or the one in a folder without other weights.

    Raises:
        UserError: a folder with several.
    """
    path = Path(source)
    if path.suffix == SUFFIX and is_file(path):
        return path
    if not is_folder(path) or any(path.glob("*.safetensors")):
        return None
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:4])
        raise UserError(f"model: {terminal_safe(source)} holds several .gguf files ({names}); give one with MODEL=FILE")
    return found[0] if found else None


def gguf_mistakes(path: Path) -> list[str]:
    """One line for what would make loading fail.

    Raises:
        UserError: it is no GGUF file.
    """
    gguf_config(path)
    if importlib.util.find_spec("gguf") is None:
        return [f"model: {terminal_safe(str(path))} needs the gguf package; run pip install 'caa-bench[gguf]'"]
    return []


@lru_cache(maxsize=8)
def gguf_config(path: Path) -> dict[str, Any]:
    """The sizes in its header, under the names of config.json, and `model_type`.

    Raises:
        UserError: it is no GGUF file, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            settings = _settings(file)
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        shown = terminal_safe(str(path))
        raise UserError(f"{shown}: not a complete GGUF file ({terminal_safe(str(error))}); download it again") from None
    kind = settings.get("general.architecture", "")
    sizes = {ours: settings.get(f"{kind}.{theirs}") for theirs, ours in _NAMES.items()}
    return {"model_type": kind, **{key: value for key, value in sizes.items() if value is not None}}


def _settings(file: BinaryIO) -> dict[str, Any]:
    """Every setting that is one value; lists (the vocabulary) are stepped over."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, _, count = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3) or count > 10**5:
        raise ValueError(f"version {version} with {count} settings")
    found = {}
    for _ in range(count):
        key = _read_string(file)
        value = _read_value(file, _number(file, "I"))
        if value is not None:
            found[key] = value
    return found


def _read_value(file: BinaryIO, kind: int) -> Any:
    """One value, or None for a list."""
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        if kind not in _FORMATS:
            raise ValueError(f"a setting of the unknown type {kind}")
        return _number(file, _FORMATS[kind])
    inner, size = _number(file, "I"), _number(file, "Q")
    if inner in _FORMATS:
        file.seek(size * struct.calcsize(_FORMATS[inner]), 1)
        return None
    for _ in range(size):
        _read_value(file, inner)
    return None


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _read_string(file: BinaryIO) -> str:
    size = _number(file, "Q")
    if size > _MOST:
        raise ValueError(f"a text of {size} bytes")
    return file.read(size).decode("utf-8", "replace")
