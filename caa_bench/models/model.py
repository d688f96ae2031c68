"""A model by name: described before it is loaded, loaded once, and what identifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.models import hub
from caa_bench.models.layers import DEFAULT_DEPTH, DEFAULT_RANGE, Layers
from caa_bench.models.loading import Loading, has_chat_template, load_model, load_tokenizer, no_chat_template
from caa_bench.models.prompts import TEMPLATES, ChoicePrompt, Message, choice_prompt
from caa_bench.storage.files import folder_fingerprint, read_json
from caa_bench.storage.paths import configs_folder, is_file, is_folder, own_models_folder, package_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class ChatModel:
    """A model by name: what is known of it without loading, and the loaded thing on first use.

    Args:
        name: as the user gave it; the `model` column of every result.
        loading: how it is loaded.
    """

    name: str
    loading: Loading
    _model: PreTrainedModel | None = field(default=None, repr=False)
    _tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    _prompts: dict[Any, ChoicePrompt] = field(default_factory=dict, repr=False)
    _files: dict[str, Any] = field(default_factory=dict, repr=False)

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
        elif "/" in name or is_folder(Path(name)):
            loading = Loading(source=name)
        else:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"model: {name[:80]!r} is unknown; {hint}use one of {', '.join(names)}, a local folder, or a hub name "
                "owner/model"
            )
        return cls(name=name, loading=replace(loading, **(changes or {})))

    @property
    def source(self) -> str:
        """Where transformers finds it: a folder or a hub name."""
        if self.loading.source == "package:tiny":
            return str(package_folder() / "tiny" / "model")
        return self.loading.source

    @property
    def layers(self) -> Layers | None:
        """Block count and default block, from config.json alone; None where that file is not at hand yet."""
        config = self._config_json()
        if config is None:
            return None
        text = config.get("text_config", config)
        count = next((text[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in text), None)
        hidden = next((text[key] for key in ("hidden_size", "n_embd", "d_model") if key in text), None)
        return None if count is None or hidden is None else self._layers(int(count), hidden=int(hidden))

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its answer, from config.json alone; None where that does not say."""
        config = self._config_json() or {}
        text = config.get("text_config", config)
        found = next((text[key] for key in ("max_position_embeddings", "n_positions", "n_ctx") if key in text), None)
        return None if found is None else int(found)

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
        """Tokens that end an answer: those that the model's generation config names, and the tokenizer's end."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        found = [self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
        return sorted({token for token in found if token is not None})

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

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the loaded model: weights, tokenizer, chat template and how it is loaded; part of each key.

        A local folder is hashed, once, its README apart; a hub model is its commit. No weights are loaded.

        Raises:
            UserError: a hub model that is not in the cache and cannot be reached.
        """
        views = ("memory_gb", "layer", "layer_range", "source", "swept", "tuned")
        settings = {k: v for k, v in asdict(self.loading).items() if k not in views}
        if not self._files:
            folder = Path(self.source)
            hashed = folder_fingerprint(folder) if folder.is_dir() else {"commit": self._commit()}
            self._files = {name: value for name, value in hashed.items() if not name.endswith(".md")}
        return settings | {"files": dict(self._files)}

    def check(self) -> list[str]:
        """One line for what would make loading fail, found without loading or network where possible."""
        if self.loading.template not in ("none", *TEMPLATES):
            known = " or ".join(TEMPLATES)
            return [f"loading.template: there is no plain template {self.loading.template!r}; use {known}, or none"]
        folder = Path(self.source)
        if not is_folder(folder):
            return []
        if not (folder / "config.json").is_file():
            return [f"model: {self.source} holds no config.json; give the folder of a transformers model"]
        mistakes = []
        if not any(folder.glob("*.safetensors")):
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
            what = "only pickled weights, which can run code when they are read" if pickled else "no weights"
            mistakes.append(
                f"model: {self.source} holds {what}; save it again with save_pretrained, which writes *.safetensors"
            )
        if self.loading.template == "none" and not has_chat_template(folder):
            mistakes.append(no_chat_template(self.source))
        return mistakes

    def _layers(self, count: int, *, hidden: int) -> Layers:
        default = round(DEFAULT_DEPTH * count) if self.loading.layer is None else self.loading.layer
        first, last = self.loading.layer_range or (round(fraction * count) for fraction in DEFAULT_RANGE)
        swept = (min(first, count - 1), min(last, count - 1))
        return Layers(count=count, default=min(default, count - 1), hidden=hidden, range=swept)

    def _config_json(self) -> dict[str, Any] | None:
        path: Path | None = Path(self.source) / hub.CONFIG
        if path is not None and not is_file(path):
            path = hub.cached_config(self.source, revision=self.loading.revision)
        return None if path is None else dict(read_json(path))

    def _commit(self) -> str:
        """The commit of the cached snapshot, which its folder is named after; config.json is fetched where it must."""
        return hub.fetch_config(self.source, revision=self.loading.revision).parent.name


def model_names() -> list[str]:
    """The names of `configs/models/*.yaml`, and of the user's own."""
    return sorted(model_configs())


def model_configs() -> dict[str, Path]:
    """Name -> file of every model config; a shipped one wins."""
    folders = (own_models_folder(), configs_folder() / "models")
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
