"""A trainer of trl's that is told of, stopped and continued: from its newest whole checkpoint to the same bytes.

Imported when a fit begins: transformers takes seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback

from caa_bench.interventions.fitting import Clock, Fitting
from caa_bench.interventions.lora.loss import answer_positions_alone

if TYPE_CHECKING:
    from transformers import Trainer

SATURATED = 0.01
"""Training stops after an epoch in which the held-out loss fell by less than this share of the least so far."""


def run(trainer: Trainer, folder: Path, *, fitting: Fitting, rows: int) -> None:
    """Train to the end, behind whatever an unfinished fit of the same has kept.

    Args:
        trainer: with `AdapterAlone` among its classes; its checkpoints go to `folder`.
        fitting: who is told, and who may stop it.
        rows: how many it trains on.

    Raises:
        SystemExit: stopped by the user; the state is kept.
    """
    args: Any = trainer.args
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary to stdout, where tables go
    trainer.add_callback(Watcher(fitting, rows=rows, batch_size=args.train_batch_size, epochs=args.num_train_epochs))
    checkpoint = newest_checkpoint(folder)
    with answer_positions_alone():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    state = trainer.state
    if state.global_step < state.max_steps and not saturated(losses(state)):
        fitting.leave_if_asked()


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


class AdapterAlone:
    """Of a trainer: a checkpoint holds the trained adapter and nothing else of the model.

    A whole one would ask the hub about the base model's vocabulary; trl's DPO keeps a second adapter that is the
    unchanged model.
    """

    model: Any
    args: Any

    def _send_telemetry(self) -> None:
        """Nothing: trl would tell the hub which of its trainers runs on what."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(
            output_dir or self.args.output_dir, save_embedding_layers=False, selected_adapters=["default"]
        )


class Watcher(TrainerCallback):
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
