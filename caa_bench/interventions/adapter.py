"""An adapter that is there already: a folder that peft's `save_pretrained` wrote, or a hub name, as an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from caa_bench.errors import UserError
from caa_bench.interventions.parts import OnCard
from caa_bench.interventions.peft_arm import ADAPTER, PeftArm
from caa_bench.models.adapters import SETTINGS
from caa_bench.models.layers import Layers
from caa_bench.storage.paths import is_file
from caa_bench.storage.safe_text import terminal_safe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs


class Adapter(PeftArm):
    """W + multiplier * (W' - W) in every linear module that the adapter stands on; W' is what peft makes of it.

    In a recipe: `arms: {theirs: {uses: adapter, path: folder}}` and `bases: [none, theirs]`. Any method of peft that
    changes modules: LoRA, DoRA, rsLoRA, IA3, VeRA and others; those that add virtual tokens (prompt tuning) shift every
    position and are refused, and so are whole modules kept beside the adapter. Nothing is trained.
    """

    name = "adapter"
    fits_alone = False
    grid = ("doses", "path")

    @dataclass(frozen=True, kw_only=True)
    class Config(PeftArm.Config):
        """Recipe section `adapter`.

        Args:
            path: the folder, or `owner/name` on the hub; the checksum of its content is part of every key.
        """

        path: str = ""

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self._content: dict[str, str] = {}

    def check(self, layers: Layers) -> list[str]:
        """A folder that is not there, or holds no adapter in safetensors."""
        try:
            self._folder()
        except UserError as error:
            return list(error.lines)
        return []

    def check_slices(self) -> list[str]:
        """An adapter that is no plain LoRA."""
        from caa_bench.interventions.lora.wrappers import not_in_slices
        from caa_bench.storage.files import read_json

        why = not_in_slices(read_json(self._folder() / SETTINGS))
        return [f"adapter.path: {terminal_safe(self.config.path)}: {why}"] if why else []

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Read the folder, and put it onto the model once, so that a stranger is found now.

        Raises:
            UserError: no such folder, or an adapter of another model.
        """
        from safetensors.torch import load_file

        from caa_bench.interventions.base import Condition
        from caa_bench.storage.files import read_json

        folder = self._folder()
        self.adapter, self.peft_settings = load_file(folder / ADAPTER), read_json(folder / SETTINGS)
        with self.attach(model, Condition()):
            pass

    def settings(self) -> dict[str, Any]:
        """With the files' content in the place of their folder's name."""
        return super().settings() | {"content": self.content()}

    def content(self) -> dict[str, str]:
        """sha256 of both files; what was read back has those it was made from."""
        from caa_bench.storage.files import sha256_file

        if not self._content:
            folder = self._folder()
            self._content = {name: sha256_file(folder / name) for name in (SETTINGS, ADAPTER)}
        return self._content

    def learned_from(self, pairs: Pairs) -> dict[str, str]:
        """Nothing of the pairs."""
        return {}

    @classmethod
    def revive(cls, settings: Mapping[str, Any], *, variant: str) -> Self:
        """Without the folder, which need not be there any more."""
        made = super().revive({key: value for key, value in settings.items() if key != "content"}, variant=variant)
        made._content = dict(settings["content"])
        return made

    def facts_for_card(self, layer: int | None) -> OnCard:
        """The kind of adapter."""
        return OnCard(facts={"adapter": f"{self.peft_settings.get('peft_type')}, given and not trained here"})

    def _folder(self) -> Path:
        from caa_bench.interventions.hub import artifact_folder

        if not self.config.path:
            raise UserError("adapter.path: missing; name a folder that peft's save_pretrained wrote")
        try:
            folder = artifact_folder(self.config.path)
        except UserError as error:
            raise UserError(*(f"adapter.path: {line}" for line in error.lines)) from None
        for name in (SETTINGS, ADAPTER):
            if not is_file(folder / name):
                shown = terminal_safe(self.config.path)
                raise UserError(f"adapter.path: {shown} holds no {name}; save it with peft's save_pretrained")
        return folder
