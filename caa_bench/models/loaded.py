"""A model and a tokenizer that are loaded already, as `Benchmark(model, tokenizer=...)` takes them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from caa_bench.errors import UserError
from caa_bench.models.hub import first_line
from caa_bench.models.loading import PLAIN_TEMPLATE, Loading
from caa_bench.models.model import ChatModel
from caa_bench.models.templates import apply_template
from caa_bench.models.turns import answer_form
from caa_bench.models.weights import refuse_untried
from caa_bench.storage.files import content_key
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class LoadedModel(ChatModel):
    """A chat model that its owner loaded. It is identified by its weights, and left as it was."""

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
        """From objects of transformers.

        Raises:
            UserError: no tokenizer is given, or something that is no model.
        """
        if not hasattr(model, "config") or not callable(model):
            raise UserError(f"model: a {type(model).__name__} is no model; give a name, a folder or a loaded model")
        if tokenizer is None:
            raise UserError("tokenizer: a loaded model needs its own; write Benchmark(model, tokenizer=tokenizer)")
        own = copy.deepcopy(tokenizer)  # the caller's keeps its padding
        if own.pad_token_id is None:
            own.pad_token = own.eos_token
        if own.chat_template is None:  # as for a model by name
            apply_template(own, PLAIN_TEMPLATE)
        name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        dtype = str(model.dtype).removeprefix("torch.")
        known = dtype in get_args(get_type_hints(Loading)["dtype"])
        loading = Loading(source=name, dtype=dtype if known else "auto")  # type: ignore[arg-type]
        return cls(name=name, loading=loading, _model=model, _tokenizer=own)

    def check(self) -> list[str]:
        """One line where nothing says at which token an answer begins, or the model is none that answers by itself.

        The same trials as of a model by name: nobody else has asked whether it is causal, counts positions from 0 and
        knows the tokenizer's tokens.
        """
        try:
            answer_form(self.tokenizer)
            refuse_untried(self.name, self.model, self.tokenizer)
        except UserError as error:
            return list(error.lines)
        except Exception as error:  # a decoder that waits for an encoder, say
            return [
                f"model: {self.name!r} ({type(self.model).__name__}) cannot read a prompt of its own "
                f"({terminal_safe(first_line(error))}); give a causal language model"
            ]
        return []

    def free(self) -> None:
        """Nothing: it belongs to the caller."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """In eval mode for the time of the block; every module's mode and every gradient flag comes back."""
        modes = {module: module.training for module in self.model.modules()}
        flags = {weight: weight.requires_grad for weight in self.model.parameters()}
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for weight, needed in flags.items():
                weight.requires_grad_(needed)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies it: its weights, config, tokenizer and chat template, read once."""
        if not self._files:
            self._files = {
                "weights": _weights_key(self.model),
                "config": content_key(json.loads(self.model.config.to_json_string(use_diff=False))),
                "tokenizer": _tokenizer_key(self.tokenizer),
                "chat_template": content_key(self.tokenizer.chat_template),
            }
        return super().fingerprint()

    def _config_json(self) -> dict[str, Any] | None:
        return dict(self.model.config.to_dict())


def in_use(chat: ChatModel) -> AbstractContextManager[None]:
    """For the time that a run uses the model; one that the run loaded itself needs no care."""
    return chat.in_use() if isinstance(chat, LoadedModel) else nullcontext()


def _weights_key(model: PreTrainedModel) -> str:
    """sha256 over every weight's name, type, shape and bytes, one after another."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what the tokenizer does with a text: the whole fast one, or the vocabulary of a slow one."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return content_key(json.loads(fast.to_str()) if fast is not None else sorted(tokenizer.get_vocab().items()))
