"""Additive edits <-> the field `steering` of a request to EasySteer (vLLM that steers) or to `caa-bench serve`.

The vectors travel inside the request, so that no server reads a file for one. Written after the project's documentation
("Steering requests", "OpenAI-compatible server", "Payload classes") and its wire format, version 1.

Shapes: D hidden size, k steered tokens at the prompt's end.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from caa_bench.engine.changes import Add
from caa_bench.engine.edit import Edit, by_place
from caa_bench.errors import UserError
from caa_bench.models.prompts import Prompt

VERSION, KIND, ALGORITHM = 1, "direction", "direct"
_VECTOR_KEYS = {"data", "source", "algorithm", "scale", "layers", "normalize", "apply", "params", "name"}
_MOST_SCALE = 1e30
_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What a request's `steering` field says.

    Args:
        edits: one addition a vector and layer.
        steered: how many of the prompt's last tokens are steered, before every new one. [k]
    """

    edits: tuple[Edit, ...] = ()
    steered: int = 1


def can_be_sent(edits: Sequence[Edit]) -> bool:
    """True for additions to the output of decoder blocks from the instruction's end on, and for nothing at all."""
    return all(edit.is_plain and edit.site == "block" for edit in edits)


def steering_field(edits: Sequence[Edit], prompt: Prompt) -> dict[str, Any] | Literal[False]:
    """What the request says about these edits on this prompt; False where nothing is steered.

    Raises:
        ValueError: an edit is no addition that can be sent (`can_be_sent`).
    """
    if not can_be_sent(edits):
        raise ValueError("only additions to a block's output from the instruction's end on can be sent")
    layers = {
        layer: change.delta
        for (layer, _), (edit, *_) in sorted(by_place([one for one in edits if not one.change.is_identity]).items())
        if isinstance(change := edit.change, Add)
    }
    if not layers:
        return False
    apply = steered_positions(len(prompt.ids) - prompt.first_position)
    vector = {"data": _payload(layers), "algorithm": ALGORITHM, "scale": 1.0, "layers": list(layers), "apply": apply}
    return {"vectors": [vector]}


def steered_positions(count: int) -> dict[str, Any]:
    """EasySteer's words for the prompt's last `count` tokens and every new one."""
    return {"prompt_positions": list(range(-count, 0)), "generation": "all"}


def read_steering(field: Any, *, layers: int, hidden: int) -> Steering:
    """The edits that a request asks for.

    Args:
        field: as JSON gave it; None and False steer nothing.
        layers / hidden: decoder blocks and hidden size of the model.

    Raises:
        UserError: it asks for what is not an addition from the prompt's end on, or does not fit the model.
    """
    if field is None or field is False:
        return Steering()
    spec = _keys(field, "steering", {"vectors", "conflict"})
    vectors = spec.get("vectors")
    if not isinstance(vectors, list) or not vectors:
        raise UserError("steering.vectors: expected a list of vectors; write at least one")
    edits: list[Edit] = []
    counts = set()
    for number, vector in enumerate(vectors):
        place = f"steering.vectors[{number}]"
        known = _keys(vector, place, _VECTOR_KEYS)
        counts.add(_steered_count(known.get("apply"), place))
        edits += [Edit(layer, Add(delta)) for layer, delta in _deltas(known, place, layers=layers, hidden=hidden)]
    twice = len({edit.layer for edit in edits}) < len(edits)
    if twice and spec.get("conflict") != "sequential":
        raise UserError('steering.conflict: two vectors act in one layer; write "sequential" to add both')
    if len(counts) > 1:
        raise UserError("steering.vectors: they steer different positions; give all the same prompt_positions")
    return Steering(edits=tuple(edits), steered=counts.pop())


def _payload(layers: Mapping[int, Tensor]) -> dict[str, Any]:
    """EasySteer's wire dictionary of a direction a layer, bytes as base64."""
    arrays = {f"layer.{n}": delta.detach().float().cpu().numpy().astype(_FLOAT32) for n, delta in layers.items()}
    tensors = {
        name: {"shape": list(one.shape), "data": base64.b64encode(one.tobytes()).decode("ascii")}
        for name, one in sorted(arrays.items())
    }
    return {"version": VERSION, "kind": KIND, "tensors": tensors, "extra": {}, "sha256": _digest(arrays)}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum that EasySteer knows a payload by."""
    digest = hashlib.sha256(f"{KIND}:{VERSION}".encode())
    for name, one in sorted(arrays.items()):
        digest.update(name.encode() + str(tuple(one.shape)).encode() + one.astype(_FLOAT32).tobytes())
    return digest.hexdigest()


def _deltas(vector: Mapping[str, Any], place: str, *, layers: int, hidden: int) -> list[tuple[int, Tensor]]:
    """What one vector adds, by layer. [D] each"""
    if vector.get("source") is not None:
        raise UserError(f"{place}.source: this server reads no files; send the vector itself under data")
    if vector.get("algorithm", ALGORITHM) != ALGORITHM:
        raise UserError(f"{place}.algorithm: only {ALGORITHM!r} is known here, h + scale * v")
    if vector.get("normalize") or vector.get("params"):
        raise UserError(f"{place}: normalize and params are not known here; leave them out")
    scale = vector.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < _MOST_SCALE:
        raise UserError(f"{place}.scale: expected a number; write for example 1.5")
    arrays = _arrays(vector.get("data"), f"{place}.data", hidden=hidden)
    wanted = vector.get("layers")
    if wanted is not None and not (isinstance(wanted, list) and set(map(str, wanted)) & set(map(str, arrays))):
        raise UserError(f"{place}.layers: none of them is in data ({', '.join(map(str, arrays))})")
    chosen = {layer: one for layer, one in arrays.items() if wanted is None or layer in wanted}
    if wrong := [layer for layer in chosen if layer >= layers]:
        raise UserError(f"{place}.data: layer {wrong[0]} does not exist; the model has layers 0 to {layers - 1}")
    return [(layer, scale * torch.from_numpy(one.copy())) for layer, one in chosen.items()]


def _arrays(data: Any, place: str, *, hidden: int) -> dict[int, np.ndarray]:
    """Layer -> its direction, every byte checked. [D] each"""
    wire = _keys(data, place, {"version", "kind", "tensors", "extra", "sha256"})
    if wire.get("version") != VERSION or wire.get("kind") != KIND or not isinstance(wire.get("tensors"), dict):
        raise UserError(
            f"{place}: expected version {VERSION}, kind {KIND!r} and tensors; see EasySteer's DirectionVector"
        )
    found = {}
    for name, tensor in wire["tensors"].items():
        number = name.removeprefix("layer.")
        if not name.startswith("layer.") or not number.isdecimal() or not isinstance(tensor, dict):
            raise UserError(f"{place}.tensors: expected names like layer.13, each with shape and data")
        try:
            raw = base64.b64decode(str(tensor.get("data", "")), validate=True)
            array = np.frombuffer(raw, dtype=_FLOAT32)
        except (binascii.Error, ValueError):
            raise UserError(
                f"{place}.tensors.layer.{number}: no base64 of float32; send it as EasySteer does"
            ) from None
        if tensor.get("shape") != [hidden] or array.shape != (hidden,) or not np.isfinite(array).all():
            raise UserError(
                f"{place}.tensors.layer.{number}: expected {hidden} finite numbers, the model's hidden size"
            )
        found[int(number)] = array
    if wire.get("sha256") != _digest({f"layer.{number}": array for number, array in found.items()}):
        raise UserError(f"{place}.sha256: is not the checksum of the tensors; send them again")
    return found


def _steered_count(apply: Any, place: str) -> int:
    """How many of the prompt's last tokens are steered."""
    said = {key: value for key, value in _keys(apply, f"{place}.apply", None).items() if value is not None}
    positions = said.get("prompt_positions")
    if isinstance(positions, list) and positions and said == steered_positions(len(positions)):
        return len(positions)
    raise UserError(
        f"{place}.apply: this server steers the prompt's last tokens and every new one; write "
        '{"prompt_positions": [-1], "generation": "all"}'
    )


def _keys(value: Any, place: str, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected an object; see EasySteer's steering requests")
    if known is not None and (unknown := sorted(set(value) - known)):
        raise UserError(f"{place}.{unknown[0]}: unknown key; use {', '.join(sorted(known))}")
    return value
