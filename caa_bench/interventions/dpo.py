"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290) of a LoRA, with trl's DPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.interventions.preference import Preference, PreferenceTuned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer


class DPO(PreferenceTuned):
    """The LoRA that minimizes -log sigmoid(beta * (log-ratio of the chosen answer - that of the rejected one)).

    A log-ratio is log p of the answer under the adapter less that without it. The paper trains all weights on ranked
    answers in words.
    """

    name = "dpo"

    @dataclass(frozen=True, kw_only=True)
    class Config(PreferenceTuned.Config):
        """Recipe section `dpo`.

        Args:
            beta: how dear it is to leave the unchanged model; smaller moves further.
        """

    def trainer(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Preference], *, folder: Path
    ) -> Trainer:
        """trl's DPOTrainer, whose reference is the model without the adapter."""
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        from caa_bench.interventions.lora.watched import AdapterAlone

        class Trainer(AdapterAlone, DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset  # token ids already: from text, trl would put an end of text behind a letter

        args = self.arguments(DPOConfig, folder, model)
        train = Dataset.from_list([dict(row) for row in rows])
        return Trainer(model=model, args=args, train_dataset=train, processing_class=tokenizer)
