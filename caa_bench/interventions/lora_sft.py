"""LoRA supervised finetuning on the same contrast pairs, toward the behavior or away from it (paper section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.lora.applied import DOWN, UP
from caa_bench.interventions.parts import OnCard
from caa_bench.interventions.sft_checks import check_sizes, check_training, training_on_card
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.model import ChatModel

ADAPTER = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
NOT_FITTED = "the LoRA has no adapter yet: call fit(...) or load(folder) first"


class LoraSFT(Intervention):
    """A LoRA adapter trained with trl's SFTTrainer on one answer of every pair.

    Variant `positive` learns the matching answers, `negative` the others. The base weights are never changed: the
    adapter is put in for the time of `attach` and taken out again.

    Example:
        >>> from caa_bench import LoraSFT
        >>> LoraSFT(variant="positive", rank=4).label
        'lora_sft_positive'
    """

    name = "lora_sft"
    trains = True
    variants = ("positive", "negative")
    grid = ("doses",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Recipe section `lora_sft`.

        Args:
            doses: scales of the finished adapter to measure; 1 is as trained.
            target: what the loss sees: the answer's `letter` alone (the test's own format), `letter_and_text`, or the
                option's `text` alone.
            rank / alpha / dropout: of the adapter; its update is scaled by alpha / rank.
            target_modules: names of linear layers in the blocks to adapt, or `all-linear`; empty: the queries and
                values of attention, by their names in the model at hand, or all linear layers where it has none.
            learning_rate / epochs / batch_size: of AdamW, with a linear decay to 0; training ends after an epoch in
                which the loss on held-out pairs no longer falls.
            max_pairs: train on the first so many pairs; null: on all.
            seed: of initialization and order.
        """

        doses: tuple[float, ...] = (1.0,)
        target: Literal["letter", "letter_and_text", "text"] = "letter"
        rank: int = 8
        alpha: int = 16
        dropout: float = 0.0
        target_modules: Literal["all-linear"] | tuple[str, ...] = ()
        learning_rate: float = 5e-4
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            check_sizes(self, "rank", "alpha")
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout: {self.dropout:g} is no such share; give 0 or more, under 1")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self.adapter: dict[str, Tensor] | None = None
        self.targets: list[str] = []
        self.training: Mapping[str, Any] = {}

    def conditions(self, layers: Layers) -> list[Condition]:
        """One condition for each of `doses`; it has no layer."""
        return [Condition(multiplier=dose) for dose in self.config.doses]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: an adapter changes every position and layer, so it needs full forwards under `attach`."""
        return None

    def check_model(self, chat: ChatModel) -> list[str]:
        """One line for each of `target_modules` that no adapter can sit on."""
        from caa_bench.interventions.lora import targets

        return targets.check(chat, self.config.target_modules)

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the adapter; loss on exactly the answer tokens. Nine tenths of the items are trained on.

        Raises:
            UserError: no adapter can sit on `target_modules`.
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user; the state is kept.
        """
        from caa_bench.interventions.lora.applied import last_logits, refuse_unapplied
        from caa_bench.interventions.lora.loss import answer_positions_alone
        from caa_bench.interventions.lora.quiet import quiet_training
        from caa_bench.interventions.lora.rows import training_row
        from caa_bench.interventions.lora.targets import targets
        from caa_bench.interventions.lora.training import split_held_out, train
        from caa_bench.models.traceless import leaves_no_trace

        positive, own = self.variant == "positive", list(pairs)[: self.config.max_pairs]
        learned, held_out = (
            [training_row(tokenizer, pair, target=self.config.target, positive=positive) for pair in part]
            for part in split_held_out(own, seed=self.config.seed)
        )
        self.targets = targets(model, self.config.target_modules)
        with quiet_training(), leaves_no_trace(model):
            from peft import get_peft_model, get_peft_model_state_dict
            from transformers import set_seed

            set_seed(self.config.seed)  # the adapter's first weights are drawn from the global generators
            peft_model = get_peft_model(model, self._lora_config())
            try:
                with answer_positions_alone():
                    self.training = train(peft_model, tokenizer, learned, held_out, config=self.config)
                state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
                self.adapter = {key: value.detach().float().cpu().clone() for key, value in state.items()}
                trained = last_logits(peft_model, learned[0]["input_ids"])
            finally:
                peft_model.unload()
        refuse_unapplied(self, model, learned[0]["input_ids"], trained=trained)

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """The adapter's update, times `condition.multiplier`, added by hooks to the modules it was trained on.

        Hooks rather than peft's wrapped modules: adapters nest in any order, also with steering, and nothing is left.
        """
        update = condition.multiplier * self.config.alpha / self.config.rank
        with ExitStack() as hooks:
            for name, (down, up) in self._factors().items():
                hook = _AddUpdate(down, up, scale=update)
                hooks.callback(model.get_submodule(name).register_forward_hook(hook, prepend=True).remove)
            yield model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter in peft's own format, which `PeftModel.from_pretrained` reads too, checksummed."""
        from safetensors.torch import save

        from caa_bench.storage.files import write_atomic, write_json

        if self.adapter is None:
            raise RuntimeError(NOT_FITTED)
        config = {key: sorted(v) if isinstance(v, set) else v for key, v in self._lora_config().to_dict().items()}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "adapter_config.json", config | {"inference_mode": True})
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
        self.adapter = load_file(folder / ADAPTER)
        self.targets = read_json(folder / "adapter_config.json")["target_modules"]
        self.training = artifact.meta.get("training", {})
        return self

    def facts_for_card(self, layer: int | None) -> OnCard:
        """Steps, batch and held-out losses of its training."""
        return training_on_card(self.training)

    def _factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name -> (A [rank, in], B [out, rank])."""
        if self.adapter is None:
            raise RuntimeError(NOT_FITTED)
        names = [key for key in self.adapter if key.endswith(DOWN)]
        return {
            name.removeprefix(PEFT_PREFIX).removesuffix(DOWN): (
                self.adapter[name],
                self.adapter[name.removesuffix(DOWN) + UP],
            )
            for name in names
        }

    def _lora_config(self) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=self.targets,
            task_type="CAUSAL_LM",
        )


class _AddUpdate:
    """Hook of one module: add `scale * B A x` to its output, in the adapter's fp32 as peft does.

    Args:
        down / up: A [rank, in] and B [out, rank].
    """

    def __init__(self, down: Tensor, up: Tensor, *, scale: float) -> None:
        self.down, self.up, self.scale = down, up, scale

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        from torch.nn.functional import linear

        if self.down.device != output.device:
            self.down, self.up = self.down.to(output.device), self.up.to(output.device)
        update = linear(linear(args[0].to(self.down.dtype), self.down), self.up)
        return (output + update * self.scale).to(output.dtype)
