"""What finetunes on preferences share: rows of a prompt with a chosen and a rejected answer, and a trainer of trl's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_bench.interventions.peft_arm import PeftArm
from caa_bench.interventions.sft_checks import check_sizes, check_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from caa_bench.behaviors.behavior import Pair, Pairs
    from caa_bench.models.model import ChatModel

Preference = Mapping[str, list[int]]
"""Token ids: `prompt_ids`, `chosen_ids` and `rejected_ids`, the two answers of which follow the one prompt."""


class PreferenceTuned(PeftArm):
    """A LoRA trained on both answers of each pair; a subclass says with which loss.

    Variant `positive` chooses the matching answers, `negative` the others; `lora_sft` sees one side alone. trl gets the
    rows as token ids, so that nothing is put behind a letter.
    """

    variants = ("positive", "negative")

    @dataclass(frozen=True, kw_only=True)
    class Config(PeftArm.Config):
        """The keys of every such section.

        Args:
            beta: weight of the loss's second part, see the subclass.
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
            SystemExit: stopped by the user; the state is kept.
        """
        from peft import LoraConfig

        from caa_bench.interventions.lora.targets import targets

        rows = [self._row(tokenizer, pair) for pair in list(pairs)[: self.config.max_pairs]]
        on = targets(model, self.config.target_modules, section=self.name)
        config = LoraConfig(r=self.config.rank, lora_alpha=self.config.alpha, target_modules=on, task_type="CAUSAL_LM")
        self.learn(
            model, config, ids=rows[0]["prompt_ids"], train=lambda wrapped: self._trained(wrapped, tokenizer, rows)
        )

    def trainer(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Preference], *, folder: Path
    ) -> Trainer:
        """trl's trainer of this loss, with `AdapterAlone` among its classes.

        Args:
            model: with peft's adapter around it.
            folder: for its checkpoints.
        """
        raise NotImplementedError

    def arguments(self, kind: Any, folder: Path, model: Any, **own: Any) -> Any:
        """The section as a trainer's arguments of one kind, over which `own` go."""
        from caa_bench.interventions.lora.training import training_arguments

        on_cpu = model.device.type == "cpu"
        own = {"beta": self.config.beta} | own
        return training_arguments(kind, folder, config=self.config, on_cpu=on_cpu, evaluate=False, **own)

    def _trained(self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Preference]) -> dict[str, Any]:
        """Train in place, on one device; what is known of it, as JSON."""
        from caa_bench.interventions.fitting import current
        from caa_bench.interventions.lora.watched import run

        fitting = current()
        with fitting.room() as folder:
            trainer = self.trainer(model, tokenizer, rows, folder=folder)
            run(trainer, folder, fitting=fitting, rows=len(rows))
        steps = trainer.state.global_step
        return {"rows": len(rows), "steps": steps, "batch": self.config.batch_size, "held_out_loss": []}

    def _row(self, tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Preference:
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
