"""Odds ratio preference optimization (Hong et al. 2024, arXiv 2403.07691) of a LoRA, with trl's ORPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.preference import Preference, PreferenceTuned
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

PLACE = "experimental/orpo"
"""Where the installed trl has it; an experiment of theirs may move."""


class ORPO(PreferenceTuned):
    """The LoRA that minimizes -log p(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected)).

    log p is the mean over the answer's tokens, odds are p / (1 - p) (paper, equations 2 to 7). No reference model is
    needed. The paper's loss of the chosen answer is on the answer, and so it is here; trl's own also learns to write
    the prompt, whose 100 tokens would drown one letter.
    """

    name = "orpo"

    @dataclass(frozen=True, kw_only=True)
    class Config(PreferenceTuned.Config):
        """Recipe section `orpo`.

        Args:
            beta: weight of the odds ratio beside the loss of the chosen answer; the paper's lambda.
        """

    def check(self, layers: Layers) -> list[str]:
        """A trl that has no ORPO."""
        trl = find_spec("trl")
        places = list(trl.submodule_search_locations or []) if trl else []
        if any((Path(place) / PLACE).is_dir() for place in places):
            return []
        return [
            f"{self.name}: the installed trl has no trl.{PLACE.replace('/', '.')}; install trl 1.16, or leave it out"
        ]

    def trainer(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Preference], *, folder: Path
    ) -> Trainer:
        """trl's ORPOTrainer on ready rows."""
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
        from trl.experimental.utils import DPODataCollatorWithPadding

        from caa_bench.interventions.lora.rows import IGNORED
        from caa_bench.interventions.lora.watched import AdapterAlone

        ready = _Ready(_both(row) for row in rows)
        longest = max(len(ids) for row in ready for ids in row.values())  # asked for, although nothing is cut
        padding = tokenizer.pad_token_id or 0  # masked

        class Trainer(AdapterAlone, ORPOTrainer):
            def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
                """Mean log p of both answers, their logits, and the chosen one's loss; no logits of the prompt."""
                both = self.concatenated_inputs(batch, padding_value=padding, device=self.accelerator.device)
                ids, mask, labels = (both[f"concatenated_{name}"] for name in ("input_ids", "attention_mask", "labels"))
                begins = int((labels != IGNORED).int().argmax(dim=1).min())  # the first answer of the batch
                kept = ids.shape[1] - begins + 1  # and the position that predicts it
                logits = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
                log_p = self.get_batch_logps(logits[:, -kept:], labels[:, -kept:], average_log_prob=True)
                chosen, rejected = log_p.chunk(2)
                return (chosen, rejected, *logits.chunk(2), -chosen.mean())

        args = self.arguments(
            ORPOConfig, folder, model, remove_unused_columns=False, max_length=longest, padding_value=padding
        )
        return Trainer(
            model=model,
            args=args,
            train_dataset=ready,
            data_collator=DPODataCollatorWithPadding(pad_token_id=padding),
            processing_class=tokenizer,
        )


class _Ready(list[dict[str, list[int]]]):
    """Rows that trl's steps from texts to token ids leave alone: these would put an end of text behind a letter."""

    def map(self, *_: Any, **__: Any) -> _Ready:
        return self


def _both(row: Preference) -> dict[str, list[int]]:
    """A row as trl's collator takes it: prompt and answer in one, with labels on the answer alone."""
    from caa_bench.interventions.lora.rows import IGNORED

    prompt, found = row["prompt_ids"], {}
    for side in ("chosen", "rejected"):
        ids = [*prompt, *row[f"{side}_ids"]]
        found[f"{side}_input_ids"] = ids
        found[f"{side}_attention_mask"] = [1] * len(ids)
        found[f"{side}_labels"] = [IGNORED] * len(prompt) + ids[len(prompt) :]
    return found
