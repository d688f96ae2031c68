"""Several interventions at once: prompts fold, edits add, attachments nest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_bench.errors import UserError
from caa_bench.interventions.base import Condition, Intervention
from caa_bench.models.layers import Layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from caa_bench.behaviors.behavior import Pairs
    from caa_bench.engine.edit import Edit
    from caa_bench.models.prompts import Message


class Stack(Intervention):
    """A stack of interventions, itself an intervention.

    Args:
        *parts: the interventions, outermost first.

    Example:
        >>> from caa_bench import LoraSFT, Stack, SystemPrompt
        >>> Stack(SystemPrompt(text="Say no."), LoraSFT(variant="positive")).label
        'system_prompt_own+lora_sft_positive'
    """

    def __init__(self, *parts: Intervention) -> None:
        super().__init__()
        self.parts = parts
        self.number = next((part.number for part in parts if part.number), "")

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.parts))})"

    @property
    def label(self) -> str:
        """The labels of the parts joined by `+`."""
        return "+".join(part.label for part in self.parts)

    @property
    def key(self) -> str:
        """The keys of the parts joined by `+`."""
        return "+".join(part.key for part in self.parts)

    def fit(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Pairs) -> None:
        """Fit every part on the same pairs, each on the unchanged model."""
        for part in self.parts:
            part.fit(model, tokenizer, pairs)

    def rewrite(self, messages: Sequence[Message]) -> list[Message]:
        """The parts' rewrites folded, innermost first."""
        for part in reversed(self.parts):
            messages = part.rewrite(messages)
        return list(messages)

    def edits(self, condition: Condition) -> list[Edit] | None:
        """The parts' edits together; in their order; None as soon as one part has none."""
        together: list[Edit] = []
        for part, dose in self._dosed(condition):
            edits = part.edits(dose)
            if edits is None:
                return None
            together += edits
        return together

    @contextmanager
    def attach(self, model: PreTrainedModel, condition: Condition) -> Iterator[PreTrainedModel]:
        """The parts' attachments nested, the first one's change first, undone in reverse order."""
        with ExitStack() as stack:
            for part, dose in self._dosed(condition):
                stack.enter_context(part.attach(model, dose))
            yield model

    def settings(self) -> dict[str, Any]:
        """The parts' settings, in order."""
        return {"stack": [part.settings() for part in self.parts]}

    def save_pretrained(self, folder: str | Path) -> None:
        """Refused: nothing could read it back.

        Raises:
            UserError: always; says what to do.
        """
        raise UserError(f"{self.label}: a stack is not kept as one artifact; save each part in a folder of its own")

    def _dosed(self, condition: Condition) -> list[tuple[Intervention, Condition]]:
        """Each part with its own dose."""
        return [(part, condition) for part in self.parts]


class SteeredBase(Stack):
    """A base with a vector among its parts, `system_prompt_positive+caa`: another vector goes on top of it.

    It stands at each of the vector's layers and doses; the other parts are as they were fitted.
    """

    def conditions(self, layers: Layers) -> list[Condition]:
        """The vector's grid."""
        return next(part for part in self.parts if part.role == "vector").conditions(layers)

    def _dosed(self, condition: Condition) -> list[tuple[Intervention, Condition]]:
        return [(part, condition if part.role == "vector" else Condition()) for part in self.parts]
