"""A folder of tensors and JSON in which every byte is checked: what is read is what was saved, and nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.storage.atomic import whole_folder, write_atomic, write_synced
from caa_bench.storage.files import content_key, folder_fingerprint, read_json, sha256_bytes, to_json
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from torch import Tensor

ARTIFACT_SCHEMA = 1
_TENSORS, _MANIFEST = "tensors.safetensors", "artifact.json"
# These run code when they are loaded, so a folder that holds one is not opened at all.
_PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a fit left behind.

    Args:
        tensors: name -> tensor; empty where the artifact has none of its own.
        meta: what was said about it when it was written.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


_FITTED_SO = (
    "nothing is kept, and another fit would end the same: check the model's weights and loading.dtype, or lower the "
    "learning rate"
)
"""Of what was fitted just now: the numbers come from the model or the settings, and not from a damaged file."""


def write_artifact(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor] | None,
    meta: Mapping[str, Any],
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write `tensors.safetensors` and `artifact.json`, which holds every file's checksum, whole or not at all.

    Files that are already in the folder (a peft adapter, say) stay and are covered by the checksums.

    Args:
        texts: file name -> text that is written beside them; replaces one of that name.

    Raises:
        UserError: a tensor holds NaN or infinity, a pickle lies in the folder, the disk is full; names the file.
    """
    from safetensors.torch import save

    with whole_folder(folder) as staged:
        for name in (_TENSORS, _MANIFEST, *texts):
            (staged / name).unlink(missing_ok=True)
        for name, text in texts.items():
            write_synced(staged / name, text)
        if tensors:
            plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
            write_synced(staged / _TENSORS, save(plain))
        described = {}
        for name, data in _contents(staged, shown=folder):
            # Sorted, because safetensors loads them in no fixed order and equal artifacts must have equal bytes.
            for tensor_name, tensor in sorted(_tensors(folder / name, data, hint=_FITTED_SO).items()):
                if name == _TENSORS:
                    described[tensor_name] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}
        files = folder_fingerprint(staged)
        manifest = {"schema": ARTIFACT_SCHEMA, "files": files, "tensors": described, "meta": dict(meta)}
        write_synced(staged / _MANIFEST, _rendered(manifest))


def add_text(folder: Path, name: str, text: str) -> None:
    """Put a text file into a fresh artifact that nobody reads yet, covered by its checksums; replaces one of that name.

    Raises:
        UserError: no artifact there, or the disk is full.
    """
    manifest = _read_manifest(folder / _MANIFEST)
    write_atomic(folder / name, text)
    manifest["files"] = dict(sorted((manifest["files"] | {name: sha256_bytes(text.encode())}).items()))
    write_atomic(folder / _MANIFEST, _rendered(manifest))


def add_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Say more about a fresh artifact that nobody reads yet, inside its checksummed part.

    Raises:
        UserError: no artifact there, or the disk is full.
    """
    manifest = _read_manifest(folder / _MANIFEST)
    write_atomic(folder / _MANIFEST, _rendered(manifest | {"meta": manifest["meta"] | dict(meta)}))


def read_meta(folder: Path) -> dict[str, Any]:
    """What is said about an artifact, its manifest checked and no other file read.

    Raises:
        UserError: missing or damaged; names the file.
    """
    return dict(_read_manifest(folder / _MANIFEST)["meta"])


def read_artifact(folder: Path, *, expect: Mapping[str, Any] | None) -> Artifact:
    """The artifact in `folder`, after checking every byte of it. Reads safetensors and JSON only.

    Args:
        expect: tensor name -> its shape as a tuple (None: any size), or meta key -> the value it must have.

    Raises:
        UserError: missing, truncated or changed file, pickle, unknown schema, NaN or infinity, another shape or
            another meta value than expected; names the file.
    """
    manifest = _read_manifest(folder / _MANIFEST)
    found = dict(_contents(folder, shown=folder))
    own: dict[str, Tensor] = {}
    for name, sha256 in manifest["files"].items():
        if name not in found:
            raise _damaged(folder / name, "missing")
        if sha256_bytes(found[name]) != sha256:
            raise _damaged(folder / name, "not what was saved (its checksum differs)")
        tensors = _tensors(folder / name, found[name])
        own = tensors if name == _TENSORS else own
    artifact = Artifact(tensors=own, meta=manifest["meta"])
    for name, wanted in (expect or {}).items():
        _check_expected(folder, artifact, name=name, wanted=wanted)
    return artifact


def _check_expected(folder: Path, artifact: Artifact, *, name: str, wanted: object) -> None:
    if not isinstance(wanted, tuple):
        if artifact.meta.get(name) != wanted:
            raise _damaged(folder / _MANIFEST, f"{name} is {artifact.meta.get(name)!r}, expected {wanted!r}")
        return
    if name not in artifact.tensors:
        raise _damaged(folder / _TENSORS, f"no tensor {name!r}")
    shape = tuple(artifact.tensors[name].shape)
    if len(shape) != len(wanted) or any(size not in (None, got) for size, got in zip(wanted, shape, strict=True)):
        raise _damaged(folder / _TENSORS, f"tensor {name!r} has shape {list(shape)}, expected {list(wanted)}")


def _contents(folder: Path, *, shown: Path) -> Iterator[tuple[str, bytes]]:
    """Relative name and bytes of every file but the manifest; a pickle or a link is refused before any is read."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        place = shown / path.relative_to(folder)
        if path.is_symlink() or not path.is_file():
            raise _damaged(place, "a link or a special file")
        if path.suffix.lower() in _PICKLES:
            raise UserError(f"{terminal_safe(str(place))}: a pickle, which can run code; only safetensors are read")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name != _MANIFEST:
            yield name, path.read_bytes()


def _tensors(path: Path, data: bytes, *, hint: str = "") -> dict[str, Tensor]:
    """The finite tensors in a safetensors file; nothing for any other file.

    Args:
        hint: what to do about one that is not finite; "" to fit again.
    """
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, f"not a safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _damaged(path, f"tensor {name!r} holds NaN or infinity", hint)
    return tensors


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _damaged(path, "missing")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _damaged(path, "not an artifact's manifest")
    if manifest.get("schema") != ARTIFACT_SCHEMA:
        raise _damaged(path, f"schema {manifest.get('schema')!r}, this version reads {ARTIFACT_SCHEMA}")
    manifest.pop("sha256", None)
    # Byte for byte, its own checksum included, so that not even a change that JSON does not notice passes.
    if _rendered(manifest) != path.read_bytes().decode("utf-8", "replace"):
        raise _damaged(path, "not what was saved (its checksum differs)")
    return manifest


def _rendered(manifest: dict[str, Any]) -> str:
    return to_json(manifest | {"sha256": content_key(manifest)}, indent=2) + "\n"


def _damaged(path: Path, problem: str, hint: str = "") -> UserError:
    shown, problem = terminal_safe(str(path)), terminal_safe(problem)
    hint = hint or f"delete the folder {terminal_safe(str(path.parent))} and fit again"
    return UserError(f"{shown}: {problem}; {hint}")
