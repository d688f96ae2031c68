"""A vector that is there already: a safetensors file, a saved artifact of this package, or a GGUF control vector."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from caa_bench.errors import UserError
from caa_bench.interventions.pair_vectors import PairVector
from caa_bench.models.layers import Layers
from caa_bench.storage.paths import is_file
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs

KEPT = "tensors.safetensors"
"""The tensors in a folder that `save_pretrained` wrote."""
_ROW = re.compile(r"(?:direction|layer|vector)[._]?(\d+)")


class VectorFile(PairVector):
    """h + multiplier * v_l from the last token of the instruction on, with v_l as the file has it.

    In a recipe: `arms: {theirs: {uses: vector_file, path: theirs.gguf}}` and `vectors: [theirs]`. Layers are counted
    from 0, and a layer's vector is added to that block's OUTPUT. In a GGUF control vector (llama.cpp, repeng)
    `direction.N` is what both add behind block N counted from 0, so it is taken as layer N here; they have none for
    block 0. In safetensors: one tensor `vectors` with a row a layer, as `save_pretrained` writes it, or one tensor a
    layer called `direction.N`, `layer.N` or `vector.N`. A layer without a vector cannot be steered. With `tensor` and
    `feature` it is one feature's direction of a sparse autoencoder's decoder, the same at each of `layers` (name the
    block that the autoencoder reads): `{uses: vector_file, path: sae.safetensors, tensor: W_dec, feature: 4071,
    layers: [12], norm: caa}`. With `norm: caa`,
    which reads the pairs as well, each layer's vector is as long as CAA's; the default is the file's own length.
    """

    name = "vector_file"
    grid = ("layers", "multipliers", "path")

    @dataclass(frozen=True, kw_only=True)
    class Config(PairVector.Config):
        """Recipe section `vector_file`.

        Args:
            path: the file; the checksum of its content, and not its name, is part of every key.
            tensor: a matrix in the file, features x hidden or hidden x features; empty: vectors by layer.
            feature: which of its features, counted from 0.
            norm: `own`, as the file has it; `caa`, as long as CAA's vector of the pairs in each layer.
        """

        path: str = ""
        tensor: str = ""
        feature: int | None = None
        norm: Literal["caa", "own"] = "own"

        def __post_init__(self) -> None:
            PairVector.Config.__post_init__(self)
            if bool(self.tensor) != (self.feature is not None):
                raise ValueError("feature: a matrix (tensor) and one of its features belong together; give both")

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self._content = ""

    def check(self, layers: Layers) -> list[str]:
        """A file that is not there or is of another model, and layers that it has no vector for."""
        mistakes = super().check(layers)
        try:
            rows = self._rows(layers.count, layers.hidden)
        except UserError as error:
            return [*mistakes, *error.lines]
        width = {len(row) for row in rows.values()}
        if width != {layers.hidden}:
            found = ", ".join(map(str, sorted(width)))
            return [*mistakes, f"{self.name}.path: its vectors have width {found}, the model {layers.hidden}"]
        steered = {condition.layer for condition in self.conditions(layers)}
        if missing := sorted(layer for layer in steered - rows.keys() if layer is not None and layer < layers.count):
            has = ", ".join(map(str, sorted(rows)))
            mistakes.append(
                f"{self.name}.layers: the file has no vector for layer {', '.join(map(str, missing))}; it has {has}"
            )
        return mistakes

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Read the file; the model is used for its shape, and for CAA's length where that is asked for.

        Raises:
            UserError: no such file, or one that holds no vectors of this model's width.
        """
        import torch

        from caa_bench.interventions.pair_vectors import sizes
        from caa_bench.models.blocks import hidden_size, num_layers

        _readable(self.config.path)
        found = torch.zeros(num_layers(model), hidden_size(model))
        rows = self._rows(*found.shape)
        for layer, row in rows.items():
            if layer >= len(found) or len(row) != found.shape[1]:
                raise UserError(
                    f"{self.name}.path: {terminal_safe(self.config.path)} has a vector of width {len(row)} for layer "
                    f"{layer}; this model has layers 0 to {len(found) - 1} of width {found.shape[1]}"
                )
            found[layer] = row
        activations = self.read_activations(model, tokenizer, pairs)
        if self.config.norm == "caa":
            lengths = activations.mean_difference().norm(dim=-1, keepdim=True)
            found = found / found.norm(dim=-1, keepdim=True).clamp_min(1e-30) * lengths
        self.vectors = found
        self.diagnostics = sizes(activations, pairs, vectors=found)

    def exchanged_vectors(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, exchanged: set[str]
    ) -> Tensor:
        """A file has no labels to shuffle: CAA's vector of the exchanged pairs stands in for it. [L, D]"""
        from caa_bench.interventions.activations import stand_in

        return stand_in(self.fitted(), self.read_activations(model, tokenizer, pairs), pairs, exchanged=exchanged)

    def settings(self) -> dict[str, Any]:
        """With the file's content in the place of its name."""
        return super().settings() | {"content": self.content()}

    def content(self) -> str:
        """sha256 of the file; what was read back has the one it was made from."""
        from caa_bench.storage.files import sha256_file

        if not self._content and is_file(file := _file(self.config.path)):
            self._content = sha256_file(file)
        return self._content

    def _rows(self, layers: int, hidden: int) -> dict[int, Tensor]:
        if self.config.feature is None:
            return read_rows(self.config.path)
        direction = read_feature(self.config.path, self.config.tensor, self.config.feature, hidden=hidden)
        return dict.fromkeys(range(layers), direction)

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Self:
        """Without the file, which need not be there any more."""
        made = super().revive({key: value for key, value in settings.items() if key != "content"}, variant=variant)
        made._content = str(settings["content"])
        return made


def read_rows(path: str) -> dict[int, Tensor]:
    """Layer, counted from 0 -> its vector in fp32. [D] each

    Raises:
        UserError: no such file, another format, no vectors in it, or numbers that are not finite.
    """
    shown, rows = terminal_safe(path), _by_layer(_tensors(path))
    if not rows:
        raise UserError(
            f"vector_file.path: {shown} has neither a [layers, hidden] tensor `vectors` nor one `direction.N` a layer"
        )
    if not all(bool(row.isfinite().all()) for row in rows.values()):
        raise UserError(f"vector_file.path: {shown} holds numbers that are not finite; write it anew")
    return rows


def read_feature(path: str, tensor: str, feature: int, *, hidden: int) -> Tensor:
    """One feature's direction from a decoder's matrix, in fp32. [D]

    Raises:
        UserError: no such file, tensor or feature, or a matrix of another width.
    """
    tensors, shown = _tensors(path), terminal_safe(tensor)
    matrix = tensors.get(tensor)
    if matrix is None:
        raise UserError(
            f"vector_file.tensor: the file has no {shown}; it has {terminal_safe(', '.join(tensors)[:200])}"
        )
    if matrix.dim() != 2 or hidden not in matrix.shape:
        raise UserError(
            f"vector_file.tensor: {shown} has shape {list(matrix.shape)}, which holds no directions of width {hidden}"
        )
    features = matrix if matrix.shape[1] == hidden else matrix.T
    if not 0 <= feature < len(features):
        raise UserError(f"vector_file.feature: {feature} is not there; {shown} has features 0 to {len(features) - 1}")
    found = features[feature].float()
    if not bool(found.isfinite().all()) or not bool(found.any()):
        raise UserError(f"vector_file.feature: {feature} of {shown} is zero or not finite; take another")
    return found


def _readable(path: str) -> Path:
    """The file, which is there and of a known format."""
    shown, file = terminal_safe(path), _file(path)
    if not path:
        raise UserError("vector_file.path: missing; name a .safetensors or .gguf file")
    if not is_file(file):
        raise UserError(f"vector_file.path: there is no file {shown}; give a .safetensors or .gguf file")
    if file.suffix not in _READERS:
        raise UserError(f"vector_file.path: {shown} is neither .safetensors nor .gguf; convert it")
    return file


def _tensors(path: str) -> dict[str, Tensor]:
    shown, file = terminal_safe(path), _readable(path)
    try:
        return _READERS[file.suffix](file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"vector_file.path: {shown} cannot be read ({type(error).__name__}); write it anew") from error


def _file(path: str) -> Path:
    """The file itself, or the tensors in a folder that `save_pretrained` wrote."""
    return Path(path) / KEPT if is_file(Path(path) / KEPT) else Path(path)


def _by_layer(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    whole = tensors.get("vectors")
    if whole is not None and whole.dim() == 2:
        return {layer: row.float() for layer, row in enumerate(whole) if bool(row.any())}
    found = {}
    for name, tensor in tensors.items():
        if (match := _ROW.fullmatch(name)) and tensor.dim() == 1:
            found[int(match[1])] = tensor.float()
    return found


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(file))


def _gguf(file: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch

    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"vector_file.path: {file} needs the gguf package; run pip install 'caa-bench[gguf]'")
    from gguf import GGUFReader

    return {
        tensor.name: torch.from_numpy(np.array(tensor.data, dtype=np.float32))
        for tensor in GGUFReader(file).tensors
        if tensor.data.dtype in (np.float32, np.float16)
    }


_READERS = {".safetensors": _safetensors, ".gguf": _gguf}
