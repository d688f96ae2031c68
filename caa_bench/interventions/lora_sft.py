"""LoRA supervised finetuning on the same contrast pairs, toward the behavior or away from it (paper section 6)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from caa_bench.interventions.base import Condition, Intervention
from caa_bench.interventions.sft_checks import check_training
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pair, Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import Prompt

IGNORED = -100  # the label that the loss skips
ADAPTER = "adapter_model.safetensors"
PEFT_PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
NOT_FITTED = "the LoRA has no adapter yet: call fit(...) or load(folder) first"


class LoraSFT(Intervention):
    """A LoRA adapter trained with trl's SFTTrainer on one answer of every pair.

    Variant `positive` learns the matching answers, `negative` the others. The base weights are never changed: the
    adapter is put in for the time of `attach` and taken out again.
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
            target_modules: module names to adapt; empty: peft's default for the architecture (query and value).
            learning_rate / epochs / batch_size: of AdamW, with a linear decay to 0.
            max_pairs: train on the first so many pairs; null: on all.
            seed: of initialization and order.
        """

        doses: tuple[float, ...] = (1.0,)
        target: Literal["letter", "letter_and_text", "text"] = "letter"
        rank: int = 8
        alpha: int = 16
        dropout: float = 0.0
        target_modules: tuple[str, ...] = ()
        learning_rate: float = 5e-4
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            for key in ("rank", "alpha"):
                if (value := getattr(self, key)) < 1:
                    raise ValueError(f"{key}: {value} is too small; give 1 or more")
            if not 0 <= self.dropout < 1:
                raise ValueError(f"dropout: {self.dropout:g} is no such share; give 0 or more, under 1")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)
        self.adapter: dict[str, Tensor] | None = None

    def conditions(self, layers: Layers) -> list[Condition]:
        """One a dose."""
        return [Condition(multiplier=dose) for dose in self.config.doses]

    def edits(self, condition: Condition) -> list[Edit] | None:
        """None: an adapter changes every position and layer, so it needs full forwards under `attach`."""
        return None

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the adapter; loss on exactly the answer tokens."""
        from caa_bench.models.traceless import leaves_no_trace

        rows = [self._row(tokenizer, pair) for pair in list(pairs)[: self.config.max_pairs]]
        with quiet(), leaves_no_trace(model):
            from peft import get_peft_model, get_peft_model_state_dict

            seed_everything(self.config.seed)
            peft_model = get_peft_model(model, self._lora_config())
            try:
                self._train(peft_model, tokenizer, rows)
                state = get_peft_model_state_dict(peft_model)
                self.adapter = {key: value.detach().float().cpu().clone() for key, value in state.items()}
            finally:
                peft_model.unload()

    @contextmanager
    def attach(
        self, model: PreTrainedModel, condition: Condition, *, prompts: Sequence[Prompt] = ()
    ) -> Iterator[PreTrainedModel]:
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
        from safetensors.torch import save_file

        from caa_bench.storage.files import write_json

        if self.adapter is None:
            raise RuntimeError(NOT_FITTED)
        config = {key: sorted(v) if isinstance(v, set) else v for key, v in self._lora_config().to_dict().items()}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "adapter_config.json", config | {"inference_mode": True})
        save_file(self.adapter, folder / ADAPTER, metadata={"format": "pt"})
        self.keep(folder)

    def load(self, folder: str | Path) -> Self:
        """Read a checked adapter.

        Raises:
            UserError: the artifact is damaged.
        """
        from safetensors.torch import load_file

        from caa_bench.storage.files import read_artifact

        folder = Path(folder)
        read_artifact(folder, expect=None)
        self.adapter = load_file(folder / ADAPTER)
        return self

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
            target_modules=list(self.config.target_modules) or None,
            task_type="CAUSAL_LM",
        )

    def _row(self, tokenizer: PreTrainedTokenizerBase, pair: Pair) -> dict[str, list[int]]:
        """One training row: the token ids, and labels that are IGNORED up to the answer. [T] each"""
        from caa_bench.models.prompts import answered_prompt, choice_prompt

        messages = [{"role": "user", "content": pair.question}]
        learned, other = (pair.matching, pair.other) if self.variant == "positive" else (pair.other, pair.matching)
        if self.config.target == "letter":
            prompt = choice_prompt(tokenizer, messages, (learned[1:-1], other[1:-1]))
            ids, start = [*prompt.ids, prompt.candidates[0]], len(prompt.ids)
        else:
            text = pair.matching_text if self.variant == "positive" else pair.other_text
            said = text if self.config.target == "text" else f"{learned} {text}"
            answered = answered_prompt(tokenizer, messages, said)
            ids, start = [*answered.ids, tokenizer.eos_token_id], answered.first_position + 1
        return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}

    def _train(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, list[int]]]) -> None:
        """trl's SFTTrainer on pre-tokenized rows: text rows would get an EOS and a second BOS (see trl)."""
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        on_cpu = model.device.type == "cpu"
        with tempfile.TemporaryDirectory() as scratch:
            args = SFTConfig(
                output_dir=scratch,
                num_train_epochs=self.config.epochs,
                per_device_train_batch_size=self.config.batch_size,
                learning_rate=self.config.learning_rate,
                lr_scheduler_type="linear",
                seed=self.config.seed,
                data_seed=self.config.seed,
                max_length=None,  # the default drops the answer of a long row, silently
                use_cpu=on_cpu,
                bf16=False,  # train in the model's own dtype; the default is mixed precision
                gradient_checkpointing=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=not on_cpu,
            )
            trainer = SFTTrainer(
                model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
            )
            trainer.remove_callback(PrinterCallback)  # it prints a dictionary to stdout, where tables go
            trainer.train()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' notes to one another off the user's screen: deprecations, token alignment, kernels."""
    import logging as standard
    import warnings

    from transformers.utils import logging

    verbosity, bitsandbytes = logging.get_verbosity(), standard.getLogger("bitsandbytes")
    level = bitsandbytes.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        bitsandbytes.setLevel(standard.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            bitsandbytes.setLevel(level)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random: the adapter's initialization draws from the global generators."""
    from transformers import set_seed

    set_seed(seed)


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
