"""Rows of token ids -> a trained adapter: trl's SFTTrainer, watched, stopped, continued, on one device.

Imported when a fit begins: transformers and trl take seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from caa_bench.interventions.fitting import Clock, Fitting, current
from caa_bench.interventions.lora.loss import answer_positions_alone
from caa_bench.models.blocks import base_model, text_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, list[int]]

SATURATED = 0.01
"""Training stops after an epoch in which the held-out loss fell by less than this share of the least so far."""
LOGGED_STEPS = 1
"""Of the optimizer, between two training losses that are told."""

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    *,
    config: Any,
) -> dict[str, Any]:
    """Train in place; goes on from the newest whole checkpoint of an unfinished fit of the same.

    Args:
        rows / held_out: pre-tokenized; text rows would get an EOS and a second BOS (see trl).
        config: the recipe section `lora_sft`.

    Returns:
        What is known of the training, as JSON: rows, held-out rows, steps, the batch of one step, devices, and the
        held-out loss after each epoch.

    Raises:
        SystemExit: stopped by the user; the state is kept.
    """
    fitting = current()
    _as_trl_reads_it(model)
    with fitting.room() as folder:
        on_cpu = model.device.type == "cpu"
        args = training_arguments(SFTConfig, folder, config=config, on_cpu=on_cpu, evaluate=bool(held_out))
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            eval_dataset=Dataset.from_list([dict(row) for row in held_out]) if held_out else None,
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)  # it prints a dictionary to stdout, where tables go
        watcher = _Watcher(fitting, rows=len(rows), batch_size=args.train_batch_size, epochs=config.epochs)
        trainer.add_callback(watcher)
        checkpoint = newest_checkpoint(folder)
        with answer_positions_alone():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
        if state.global_step < state.max_steps and not saturated(losses(state)):
            fitting.leave_if_asked()
    known = {"rows": len(rows), "held_out_rows": len(held_out), "steps": state.global_step}
    return known | {
        "batch": args.train_batch_size,
        "devices": max(1, args.n_gpu),
        "held_out_loss": [float(f"{loss:.6g}") for loss in losses(state)],
    }


def training_arguments(
    kind: type[Arguments], folder: Path, *, config: Any, on_cpu: bool, evaluate: bool, **own: Any
) -> Arguments:
    """A trainer's arguments, for one device however many the machine shows.

    With several, Trainer would multiply the batch by their number; the same recipe would train something else on
    another machine, under the same key.

    Args:
        kind: the trainer's own class of arguments.
        config: a recipe section with `epochs`, `batch_size`, `learning_rate` and `seed`.
        own: arguments that only this kind has.
    """
    args = kind(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        seed=config.seed,
        data_seed=config.seed,
        max_length=None,  # the default drops the answer of a long row, silently
        use_cpu=on_cpu,
        bf16=False,  # train in the model's own dtype; the default is mixed precision
        gradient_checkpointing=False,
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="no",  # the watcher says when
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=LOGGED_STEPS,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        **own,
    )
    args._n_gpu = min(args.n_gpu, 1)
    return args


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: its `trainer_state.json`, the last file, parses."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def losses(state: Any) -> list[float]:
    """The held-out loss after each epoch so far."""
    return [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]


def saturated(found: Sequence[float]) -> bool:
    """Whether the newest held-out loss is not clearly below the least before it."""
    return len(found) > 1 and not found[-1] < (1 - SATURATED) * min(found[:-1])


def _as_trl_reads_it(model: PeftModel) -> None:
    """Names that trl looks for and some families have otherwise; `leaves_no_trace` takes them away again.

    The number of experts (Granite, PhiMoE), that there are none (Doge), and the part in front of the head (Llama 4).
    """
    config, whole = text_config(model), base_model(model)
    if not hasattr(config, "num_experts") and hasattr(config, "num_local_experts"):
        config.num_experts = config.num_local_experts
    if getattr(config, "is_moe", True) is False:
        config.router_aux_loss_coef = 0.0
    if getattr(whole, "base_model", None) is whole and hasattr(whole, "model"):
        whole.base_model_prefix = "model"


class _Trainer(SFTTrainer):
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter alone: a whole checkpoint would ask the hub about the base model's vocabulary."""
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)


class _Watcher(TrainerCallback):
    """Tells how far the training is; keeps its state now and then, and before it leaves.

    Never behind an epoch's last step, where the held-out loss is still to be measured: a continued fit would lack it.

    Args:
        fitting: who is told, and who may stop it.
        rows / batch_size / epochs: of the training.
    """

    def __init__(self, fitting: Fitting, *, rows: int, batch_size: int, epochs: float) -> None:
        self._fitting, self._clock = fitting, Clock()
        self._rows, self._batch_size, self._total = rows, batch_size, math.ceil(rows * epochs)
        self._steps = math.ceil(rows / batch_size)  # an epoch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._fitting.kept = self._done(state)
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(state)
        if state.global_step % self._steps == 0 or state.global_step >= state.max_steps:
            return
        if self._fitting.stopping:
            control.should_training_stop = control.should_save = True
        elif self._clock.due():
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            return
        if state.global_step % self._steps == 0:
            control.should_save = True
            control.should_training_stop = control.should_training_stop or self._fitting.stopping
        else:
            # A stop in the middle of an epoch, already kept. The trainer takes it for the epoch's end and would measure
            # a held-out loss that an uninterrupted fit does not have.
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(state)
        if saturated(losses(state)):
            # Not kept: a continued fit would begin another epoch behind it
            control.should_training_stop, control.should_save = True, False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._tell(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._fitting.kept = self._done(state)

    def _tell(self, state: Any) -> None:
        # from the state, which a continued fit takes over
        trained = [entry["loss"] for entry in state.log_history if "loss" in entry]
        said = [f"loss {float(loss):.3f}" for loss in trained[-1:]]
        said += [f"held-out loss {loss:.3f}" for loss in losses(state)[-1:]]
        self._fitting.step(self._done(state), self._total, note=", ".join(said))

    def _done(self, state: Any) -> int:
        epochs, steps = divmod(state.global_step, self._steps)
        return min(epochs * self._rows + min(steps * self._batch_size, self._rows), self._total)
