"""What arms with an adapter of peft's share: how it is attached, kept and read back; a subclass says whence it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.parts import OnCard
from caa_bench.interventions.sft_checks import training_on_card
from caa_bench.models.adapters import SETTINGS
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit

ADAPTER = "adapter_model.safetensors"
"""What peft calls the file of an adapter's tensors."""


class PeftArm(Intervention):
    """The outputs of some linear modules, moved by `multiplier` times what the adapter does to them.

    Attributes:
        adapter: its tensors, by peft's keys; None before `fit` or `load`.
        peft_settings: of its `adapter_config.json`.
        training: what is known of its training, as JSON; empty where it was not trained here.
    """

    trains = True
    fits_alone = True
    grid: ClassVar[tuple[str, ...]] = ("doses",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The key of every such section.

        Args:
            doses: scales of the finished adapter to measure; 1 is as trained.
        """

        doses: tuple[float, ...] = (1.0,)

    def __init__(self, config: Any = None, *, variant: str = "", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self.adapter: dict[str, Tensor] | None = None
        self.peft_settings: dict[str, Any] = {}
        self.training: Mapping[str, Any] = {}

    def conditions(self, layers: Layers) -> list[Condition]:
        """One condition for each of `doses`; it has no layer."""
        return [Condition(multiplier=dose) for dose in self.config.doses]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: an adapter changes every position and layer, so it needs full forwards under `attach`."""
        return None

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """peft's own modules in the place of the model's, and these back again afterwards.

        Raises:
            UserError: it is an adapter of another model.
        """
        from caa_bench.interventions.lora.wrappers import adapted

        if self.adapter is None:
            raise RuntimeError(f"{self.label} has no adapter yet: call fit(...) or load(folder) first")
        try:
            around = adapted(model, self.peft_settings, self.adapter, multiplier=condition.multiplier)
            with around:
                yield model
        except UserError as error:
            raise UserError(*(f"{self.label}: {line}" for line in error.lines)) from error

    def in_front(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A prompt's token ids with what this arm itself puts in front of them: nothing. [T]"""
        return tuple(ids)

    def learn_answers(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
        peft_config: Any,
        *,
        begin: Callable[[Any], None] | None = None,
    ) -> None:
        """Train an adapter on one answer of every pair, with trl's SFTTrainer; nine tenths of the items are trained on.

        The variant says which answer, and the section's `target` what of it; the loss is on exactly those tokens.

        Args:
            peft_config: of peft.
            begin: what is done to the wrapped model before the first step.

        Raises:
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user; the state is kept.
        """
        from caa_bench.interventions.held_out import split_held_out
        from caa_bench.interventions.lora.quiet import quiet_training
        from caa_bench.interventions.lora.rows import training_row

        with quiet_training():
            from caa_bench.interventions.lora.training import train

        positive, own = self.variant == "positive", list(pairs)[: self.config.max_pairs]
        learned, held_out = (
            [training_row(tokenizer, pair, target=self.config.target, positive=positive) for pair in part]
            for part in split_held_out(own, seed=self.config.seed)
        )

        def trained(wrapped: Any) -> Mapping[str, Any]:
            if begin is not None:
                begin(wrapped)
            return train(wrapped, tokenizer, learned, held_out, config=self.config)

        self.learn(model, peft_config, ids=learned[0]["input_ids"], train=trained)

    def learn(
        self,
        model: PreTrainedModel,
        config: Any,
        *,
        ids: Sequence[int],
        train: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        """Train an adapter from a seed and keep it; the model is left as it was.

        Args:
            config: of peft.
            ids: a prompt, on which the adapter as `attach` applies it is compared with the trained one.
            train: trains the model that peft has wrapped, and says what is known of it, as JSON.

        Raises:
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
        """
        from peft import get_peft_model, get_peft_model_state_dict
        from transformers import set_seed

        from caa_bench.interventions.lora.applied import last_logits, refuse_other_logits
        from caa_bench.interventions.lora.wrappers import unwrapped_afterwards

        with unwrapped_afterwards(model):
            set_seed(self.config.seed)  # the adapter's first weights are drawn from the global generators
            wrapped = get_peft_model(model, config)
            self.training = train(wrapped)
            state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
            self.adapter = {key: value.detach().float().cpu().clone() for key, value in state.items()}
            trained = last_logits(wrapped, ids)
        plain = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
        self.peft_settings = plain | {"inference_mode": True, "base_model_name_or_path": None}
        refuse_other_logits(self, model, ids, trained=trained)

    def facts_for_card(self, layer: int | None) -> OnCard:
        """Steps, batch and held-out losses of its training."""
        return training_on_card(self.training)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter in peft's own format, which `PeftModel.from_pretrained` reads too, checksummed."""
        from safetensors.torch import save

        from caa_bench.storage.files import write_atomic, write_json

        if self.adapter is None:
            raise RuntimeError(f"{self.label} has no adapter yet: call fit(...) or load(folder) first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, self.peft_settings | {"inference_mode": True})
        write_atomic(folder / ADAPTER, save(self.adapter, metadata={"format": "pt"}))
        self.keep(folder, facts={"training": self.training})

    def load(self, folder: str | Path) -> Self:
        """Read a checked adapter.

        Raises:
            UserError: the artifact is damaged.
        """
        from safetensors.torch import load_file

        from caa_bench.storage.artifact_folder import read_artifact
        from caa_bench.storage.files import read_json

        folder = Path(folder)
        artifact = read_artifact(folder, expect=None)
        self.adapter, self.peft_settings = load_file(folder / ADAPTER), read_json(folder / SETTINGS)
        self.training = artifact.meta.get("training", {})
        return self
