"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) of a LoRA, with trl's DPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.peft_arm import PeftArm
from caa_bench.interventions.sft_checks import check_sizes, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pair, Pairs
    from caa_bench.models.model import ChatModel


class DPO(PeftArm):
    """The LoRA that minimizes -log sigmoid(beta * (log-ratio of the chosen answer - that of the rejected one)).

    A log-ratio is log p of the answer under the adapter less that without it; variant `positive` chooses the matching
    answers, `negative` the others. Both sides of each pair are learned from, where `lora_sft` sees one. trl gets the
    rows as token ids, so that nothing is put behind a letter. The paper trains all weights on ranked answers in words.
    """

    name = "dpo"
    variants = ("positive", "negative")

    @dataclass(frozen=True, kw_only=True)
    class Config(PeftArm.Config):
        """Recipe section `dpo`.

        Args:
            beta: how dear it is to leave the unchanged model; smaller moves further.
            target / rank / alpha / target_modules: as for `lora_sft`.
            learning_rate / epochs / batch_size / max_pairs / seed: as for `lora_sft`; a step holds both answers.
        """

        beta: float = 0.1
        target: Literal["letter", "letter_and_text", "text"] = "letter"
        rank: int = 8
        alpha: int = 16
        target_modules: Literal["all-linear"] | tuple[str, ...] = ()
        learning_rate: float = 5e-4
        epochs: float = 1.0
        batch_size: int = 8
        max_pairs: int | None = None
        seed: int = 0

        def __post_init__(self) -> None:
            if self.beta <= 0:
                raise ValueError(f"beta: {self.beta:g} is too small; give more than 0")
            check_sizes(self, "rank", "alpha")
            check_training(self)

    def __init__(self, config: Any = None, *, variant: str = "positive", **settings: Any) -> None:
        super().__init__(config, variant=variant, **settings)

    def check_model(self, chat: ChatModel) -> list[str]:
        """One line for each of `target_modules` that no adapter can sit on."""
        from caa_bench.interventions.lora import targets

        return targets.check(chat, self.config.target_modules, section=self.name)

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Train the adapter on all pairs.

        Raises:
            UserError: no adapter can sit on `target_modules`.
            RuntimeError: the adapter as `attach` applies it is not the one that was trained.
            SystemExit: stopped by the user.
        """
        from peft import LoraConfig

        from caa_bench.interventions.lora.targets import targets

        rows = [self._row(tokenizer, pair) for pair in list(pairs)[: self.config.max_pairs]]
        on = targets(model, self.config.target_modules, section=self.name)
        config = LoraConfig(r=self.config.rank, lora_alpha=self.config.alpha, target_modules=on, task_type="CAUSAL_LM")
        self.learn(
            model,
            config,
            ids=rows[0]["prompt_ids"],
            train=lambda wrapped: _trained(wrapped, tokenizer, rows, config=self.config),
        )

    def _row(self, tokenizer: PreTrainedTokenizerBase, pair: Pair) -> dict[str, list[int]]:
        """The prompt and both answers as token ids."""
        from caa_bench.interventions.lora.rows import IGNORED, training_row

        found: dict[str, list[int]] = {}
        for name, positive in (
            ("chosen_ids", self.variant == "positive"),
            ("rejected_ids", self.variant != "positive"),
        ):
            row = training_row(tokenizer, pair, target=self.config.target, positive=positive)
            start = sum(label == IGNORED for label in row["labels"])
            prompt, found[name] = row["input_ids"][:start], row["input_ids"][start:]
            if found.setdefault("prompt_ids", prompt) != prompt:
                raise ValueError(f"{self.label}: the tokenizer writes the prompt in two ways for {pair.item}")
        return found


def _trained(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, list[int]]], *, config: Any
) -> Mapping[str, Any]:
    """Train in place, on one device; what is known of it, as JSON."""
    import tempfile

    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from caa_bench.interventions.fitting import current
    from caa_bench.interventions.lora.training import training_arguments

    fitting = current()

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # token ids already: from text, trl would put an end of text behind a letter

    class Watcher(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            fitting.step(min(state.global_step * config.batch_size, len(rows)), len(rows))
            control.should_training_stop = fitting.stopping

    with tempfile.TemporaryDirectory() as scratch:
        on_cpu = model.device.type == "cpu"
        args = training_arguments(
            DPOConfig, Path(scratch), config=config, on_cpu=on_cpu, evaluate=False, beta=config.beta
        )
        trainer = Trainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)  # it prints a dictionary to stdout, where tables go
        trainer.add_callback(Watcher())
        trainer.train()
    if trainer.state.global_step < trainer.state.max_steps:
        fitting.leave_if_asked()
    steps = trainer.state.global_step
    return {"rows": len(rows), "steps": steps, "batch": config.batch_size, "held_out_loss": []}
