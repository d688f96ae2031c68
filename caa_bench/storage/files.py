"""Checksums, JSON without NaN, and paths that stay inside."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caa_bench.errors import UserError
from caa_bench.storage.atomic import write_atomic as write_atomic
from caa_bench.storage.locks import lock_folder as lock_folder
from caa_bench.storage.safe_text import csv_cell as csv_cell
from caa_bench.storage.safe_text import safe_name as safe_name
from caa_bench.storage.safe_text import terminal_safe as terminal_safe


def folder_fingerprint(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 of every file in a folder, hidden ones left out, sorted by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder) for path in files]
    return {
        name.as_posix(): sha256_file(folder / name)
        for name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def content_key(obj: object) -> str:
    """sha256 of the value as sorted, compact JSON: equal values, equal keys.

    Raises:
        ValueError: NaN or infinity, which are not a value to key a result by.
    """
    return sha256_bytes(json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def content_seed(obj: object) -> int:
    """A generator's seed from the value: equal values, equal draws, whatever else is drawn beside them."""
    return int(content_key(obj)[:15], 16)


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(obj: object, *, indent: int | None = None) -> str:
    """JSON without NaN or infinity: what is missing is null. Keys keep their order."""
    return json.dumps(_finite(obj), allow_nan=False, ensure_ascii=False, indent=indent)


def write_json(path: Path, obj: object) -> None:
    """`to_json`, indented, written atomically."""
    write_atomic(path, to_json(obj, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        UserError: missing, unreadable, or not JSON (NaN is not); names the file and the line.
    """
    shown = terminal_safe(str(path))
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe would wait for a writer
        raise UserError(f"{shown}: no regular file but a pipe or a device; give a file")
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror}); check the path") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}:{error.lineno}: not valid JSON ({error.msg}); make the file again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{shown}:1: not valid JSON; make the file again") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _finite(obj: object) -> object:
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {key: _finite(value) for key, value in obj.items()}
    return [_finite(value) for value in obj] if isinstance(obj, list | tuple) else obj


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, if that is really inside the folder once symlinks are followed.

    Raises:
        UserError: the name is not safe, or a symlink leads out of the folder.
    """
    path = folder / safe_name(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{terminal_safe(str(path))}: leads outside of {terminal_safe(str(folder))}; remove the link")
    return path
