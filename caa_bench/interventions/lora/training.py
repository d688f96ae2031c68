"""Rows of token ids -> a trained adapter: trl's SFTTrainer, on one device.

Imported when a fit begins: transformers and trl take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from datasets import Dataset
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from caa_bench.interventions.fitting import current
from caa_bench.interventions.lora.watched import AdapterAlone, losses, run
from caa_bench.models.blocks import text_config

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, list[int]]

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
    _as_trl_reads_it(model.get_base_model())
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
        run(trainer, folder, fitting=fitting, rows=len(rows))
    known = {"rows": len(rows), "held_out_rows": len(held_out), "steps": trainer.state.global_step}
    return known | {
        "batch": args.train_batch_size,
        "devices": max(1, args.n_gpu),
        "held_out_loss": [float(f"{loss:.6g}") for loss in losses(trainer.state)],
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
        own: arguments of this kind, over the usual ones.
    """
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "seed": config.seed,
        "data_seed": config.seed,
        "max_length": None,  # the default drops the answer of a long row, silently
        "use_cpu": on_cpu,
        "bf16": False,  # train in the model's own dtype; the default is mixed precision
        "gradient_checkpointing": False,
        "eval_strategy": "epoch" if evaluate else "no",
        "save_strategy": "no",  # the watcher says when
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": LOGGED_STEPS,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }
    args = kind(**settings | own)
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _as_trl_reads_it(whole: nn.Module) -> None:
    """Names that trl looks for and some families have otherwise; `leaves_no_trace` takes them away again.

    The number of experts (Granite, PhiMoE), that there are none (Doge), and the part in front of the head (Llama 4).
    """
    config = text_config(whole)
    if not hasattr(config, "num_experts") and hasattr(config, "num_local_experts"):
        config.num_experts = config.num_local_experts
    if getattr(config, "is_moe", True) is False:
        config.router_aux_loss_coef = 0.0
    if getattr(whole, "base_model", None) is whole and hasattr(whole, "model"):
        whole.base_model_prefix = "model"


class _Trainer(AdapterAlone, SFTTrainer):
    """trl's, which keeps the adapter alone."""
