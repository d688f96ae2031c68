"""A model by name: described before it is loaded, loaded once, and what identifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.models import hub, model_files
from caa_bench.models.adapters import SETTINGS, WEIGHTS, base_of
from caa_bench.models.dtypes import Choice, choose_dtype
from caa_bench.models.gguf import SUFFIX, gguf_config, gguf_file, gguf_mistakes
from caa_bench.models.kept_notes import notes_kept_for
from caa_bench.models.layers import DEFAULT_DEPTH, DEFAULT_RANGE, Layers
from caa_bench.models.loading import Loading, load_model, load_tokenizer
from caa_bench.models.model_files import checksums, folder_mistakes, read_config, size_in, weight_files
from caa_bench.models.prompts import ChoicePrompt, choice_prompt
from caa_bench.models.template_notes import TemplateNotes, template_notes
from caa_bench.models.templates import TEMPLATES, Message
from caa_bench.models.turns import end_tokens
from caa_bench.storage.files import sha256_file
from caa_bench.storage.paths import configs_folder, is_file, is_folder, own_models_folder, package_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "package:tiny"
"""The source of the embedded model, which lies inside the package."""


@dataclass(kw_only=True)
class ChatModel:
    """A model by name: what is known of it without loading, and the loaded thing on first use.

    Args:
        name: as the user gave it; the `model` column of every result.
        loading: how it is loaded.

    Example:
        >>> from caa_bench import ChatModel
        >>> ChatModel.find("tiny").layers.count
        6
    """

    name: str
    loading: Loading
    _model: PreTrainedModel | None = field(default=None, repr=False)
    _tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    _prompts: dict[Any, ChoicePrompt] = field(default_factory=dict, repr=False)
    _files: dict[str, str] = field(default_factory=dict, repr=False)
    _dtype: Choice | None = field(default=None, repr=False)
    _notes: TemplateNotes | None = field(default=None, repr=False)

    @classmethod
    def find(cls, name: str, *, changes: dict[str, Any] | None = None) -> ChatModel:
        """A model config's name, a local folder, or a hub name.

        Raises:
            UserError: a path that is no model folder.
        """
        from caa_bench.config.recipe_yaml import load

        names = model_names()
        if name in names:
            loading = load(model_configs()[name], [], Loading).values
        elif "/" in name or is_folder(Path(name)) or (name.endswith(SUFFIX) and is_file(Path(name))):
            base = base_of(name)
            loading = Loading(source=base or name, adapter=name if base else None)
            if not Path(name).name.strip("."):  # `.` and the like name no model: the folder's own name does
                name = Path(name).resolve().name or name
        else:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"model: {name[:80]!r} is unknown; {hint}use one of {', '.join(names)}, a local folder, or a hub name "
                "owner/model"
            )
        return cls(name=name, loading=replace(loading, **(changes or {})))

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded model, whose language its own splits are written in."""
        return self.loading.source == EMBEDDED

    @property
    def source(self) -> str:
        """Where transformers finds it: a folder or a hub name."""
        if self.embedded:
            return str(package_folder() / "tiny" / "model")
        return self.loading.source

    @property
    def gguf(self) -> Path | None:
        """The `.gguf` file that it is loaded from; None for other models."""
        return gguf_file(self.source)

    @property
    def layers(self) -> Layers | None:
        """Block count and default block, from config.json alone; None where that file is not at hand yet."""
        config = self._config_json()
        if config is None:
            return None
        count, hidden = size_in(config, model_files.LAYERS), size_in(config, model_files.HIDDEN)
        return None if count is None or hidden is None else self._layers(count, hidden=hidden)

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its answer, from config.json alone; None where that does not say."""
        config = self._config_json()
        return None if config is None else size_in(config, model_files.CONTEXT)

    def loaded_layers(self) -> Layers:
        """Block count and default block, from the loaded model where config.json does not say."""
        if (known := self.layers) is not None:
            return known
        from caa_bench.models.blocks import hidden_size, num_layers

        return self._layers(num_layers(self.model), hidden=hidden_size(self.model))

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded once, in eval mode."""
        if self._model is None:
            _ = self.tokenizer  # seconds; what is wrong with it should not wait for minutes of weights
            self._model = load_model(self)
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded once, with its chat template or the named plain one."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self)
        return self._tokenizer

    def choice_prompt(self, messages: Sequence[Message], letters: tuple[str, ...]) -> ChoicePrompt:
        """`prompts.choice_prompt` on this model's tokenizer, remembered: bases with the same text share it."""
        key = (*(tuple(sorted(message.items())) for message in messages), letters)
        if key not in self._prompts:
            self._prompts[key] = choice_prompt(self.tokenizer, messages, letters)
        return self._prompts[key]

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: what the chat template writes behind one, the model's own, the tokenizer's end."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        found = [self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
        return sorted({token for token in found if token is not None} | set(end_tokens(self.tokenizer)))

    def template_notes(self) -> TemplateNotes:
        """What the chat template adds by itself, and where it puts a system text; loads the tokenizer alone."""
        if self._notes is None:
            self._notes = template_notes(self.tokenizer)
        return self._notes

    def text_of(self, ids: Sequence[int]) -> str:
        """What an answer's tokens say, without special tokens and space around it."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def free(self) -> None:
        """Let go of the loaded model and its memory; the next use loads it again."""
        import gc

        import torch

        self._model = self._tokenizer = None
        self._prompts.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def dtype(self) -> Choice:
        """What it is loaded in; `auto` on a CPU is decided by what is faster there."""
        loading = self.loading
        if (loading.dtype, loading.quantization, loading.device_map) != ("auto", "none", "none"):
            return Choice(dtype=loading.dtype)
        if self._dtype is None:
            self._dtype = choose_dtype(self._config_json(), weights_bytes=self._weights_bytes())
        return self._dtype

    @property
    def computes_in(self) -> str | None:
        """The dtype of its arithmetic, `auto` resolved; None where config.json is not at hand or does not say."""
        if (chosen := self.dtype.dtype) != "auto":
            return chosen
        config = self._config_json() or {}
        stored = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
        return None if stored is None else str(stored)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the loaded model: files, prompts as rendered, and how it is loaded; part of each key.

        Of a local folder the files that loading reads are hashed, once; a hub model is its commit. The template is
        rendered with the tokenizer alone, and what it gave is kept in the user's cache.

        Raises:
            UserError: a hub model that is not in the cache and cannot be reached, or a damaged tokenizer.
        """
        views = ("memory_gb", "layer", "layer_range", "source", "adapter", "swept", "tuned", "parallel")
        settings = {k: v for k, v in asdict(self.loading).items() if k not in views} | {"dtype": self.dtype.dtype}
        if not self._files:
            self._files = self._hashed()
        if self._notes is None and self._tokenizer is None:
            self._notes = notes_kept_for(self._files, self.loading.template, render=self.template_notes)
        return settings | {"files": dict(self._files), "prompt": asdict(self.template_notes())}

    def check(self) -> list[str]:
        """One line for what would make loading fail, found without loading or network where possible."""
        if self.loading.template not in ("none", *TEMPLATES):
            known = " or ".join(TEMPLATES)
            return [f"loading.template: there is no plain template {self.loading.template!r}; use {known}, or none"]
        if self.loading.quantization != "none" and find_spec("bitsandbytes") is None:
            wanted = self.loading.quantization
            return [f"loading.quantization: {wanted} needs bitsandbytes; run pip install 'caa-bench[quantization]'"]
        if self.gguf is not None:
            return gguf_mistakes(self.gguf)
        folder = Path(self.source)
        return folder_mistakes(folder) if is_folder(folder) else []

    def _layers(self, count: int, *, hidden: int) -> Layers:
        default = round(DEFAULT_DEPTH * count) if self.loading.layer is None else self.loading.layer
        first, last = self.loading.layer_range or (round(fraction * count) for fraction in DEFAULT_RANGE)
        swept = (min(first, count - 1), min(last, count - 1))
        return Layers(count=count, default=min(default, count - 1), hidden=hidden, range=swept)

    def _config_json(self) -> dict[str, Any] | None:
        if self.gguf is not None:
            return gguf_config(self.gguf)
        path: Path | None = Path(self.source) / model_files.CONFIG
        if path is not None and not is_file(path):
            path = hub.cached_config(self.source, revision=self.loading.revision)
        return None if path is None else read_config(path)

    def _hashed(self) -> dict[str, str]:
        """sha256 of each file that is read, or a hub model's commit; an adapter's beside its base's."""
        folder = Path(self.source)
        if self.gguf is not None:
            found = {self.gguf.name: sha256_file(self.gguf)}
        else:
            found = checksums(folder) if folder.is_dir() else {"commit": self._commit()}
        if self.loading.adapter is None:
            return found
        own = {name: sha256_file(Path(self.loading.adapter) / name) for name in (SETTINGS, WEIGHTS)}
        return own | {f"base/{name}": value for name, value in found.items()}

    def _weights_bytes(self) -> float | None:
        """Of the files where they are at hand, else what the model's config says."""
        folder = Path(self.source)
        if not is_folder(folder) and (cached := hub.cached_config(self.source, revision=self.loading.revision)):
            folder = cached.parent
        sizes = [path.stat().st_size for path in weight_files(folder) if is_file(path)]
        return sum(sizes) if sizes else self.loading.memory_gb and self.loading.memory_gb * 1e9

    def _commit(self) -> str:
        """The commit of the cached snapshot, which its folder is named after; config.json is fetched where it must."""
        return hub.fetch_config(self.source, revision=self.loading.revision).parent.name


def is_embedded(name: str) -> bool:
    """The same of a name, from its config alone; a name that no model has counts too, as it is refused by itself."""
    try:
        return ChatModel.find(name).embedded
    except UserError:
        return True


def model_names() -> list[str]:
    """The names of `configs/models/*.yaml`, and of the user's own."""
    return sorted(model_configs())


def model_configs() -> dict[str, Path]:
    """Name -> file of every model config; a shipped one wins."""
    folders = (own_models_folder(), configs_folder() / "models")
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
