"""What steering costs: plain two-option questions, scored exactly as the A/B test on the correct option.

The paper's MMLU and TruthfulQA items, or facts that the embedded model was trained on. A cell's level is the unweighted
mean over categories, as there: `caa_bench.analysis.macro`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from caa_bench.behaviors.behavior import Behavior, Item
from caa_bench.behaviors.items import category_of
from caa_bench.behaviors.json_entries import Faults
from caa_bench.behaviors.splits import CAPABILITY, read_items
from caa_bench.errors import UserError
from caa_bench.evaluators.answer_probability import AnswerProbability
from caa_bench.evaluators.base import Evaluator, Job, Row
from caa_bench.storage.paths import package_folder

PUBLISHED = {"mmlu": "mmlu.json", "truthfulqa": "truthful_qa.json"}


class Capability(Evaluator):
    """Asks questions that have nothing to do with the behavior; "matching" is the correct option.

    Args:
        config: its recipe section.
        data_dir: the folder of the published data; None for what `caa-bench data download` fetched.

    Example:
        >>> from caa_bench import Capability
        >>> Capability(source="mmlu", multipliers=[-1, 1]).config.source
        'mmlu'
    """

    name = "capability"
    of_behavior = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Evaluator.Config):
        """Recipe section `capability`.

        Args:
            source: `own`, 120 plain facts in 4 categories; `mmlu`, the paper's 570 items of 57 subjects; `truthfulqa`,
                its 817 items of 32 categories.
        """

        source: Literal["own", "mmlu", "truthfulqa"] = "own"

    def __init__(self, config: Any = None, *, data_dir: Path | None = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.data_dir = data_dir

    @classmethod
    def build(cls, config: Any, *, data_dir: Path | None, judges: Mapping[str, Any]) -> Self:
        """Reads the published items where the published behaviors are."""
        return cls(config, data_dir=data_dir)

    def items(self, behavior: Behavior, *, split: str) -> Sequence[Item]:
        """The same questions for every behavior and split, the categories in turn, so that a limit takes from all.

        Raises:
            UserError: the published file is not there, or it has faults.
        """
        source, faults = self.config.source, Faults()
        read = read_items(self._file(), behavior=source, split=source, faults=faults, keys=CAPABILITY, twins=True)
        faults.refuse()
        seen: Counter[str] = Counter()
        turns = []
        for entry in read:
            category = category_of(entry.value.id)
            turns.append((seen[category], entry.value))
            seen[category] += 1
        return [item for _, item in sorted(turns, key=lambda turn: turn[0])]

    def evaluate(self, job: Job) -> list[Row]:
        """The rows of the A/B test."""
        return AnswerProbability().evaluate(job)

    def failed(self, job: Job, why: str) -> list[Row]:
        """Those of the A/B test."""
        return AnswerProbability().failed(job, why)

    def _file(self) -> Path:
        source = self.config.source
        if source == "own":
            return package_folder() / "tiny" / "capability.json"
        from caa_bench.behaviors.download import data_folder

        file = (self.data_dir or data_folder()) / "test" / source / PUBLISHED[source]
        if not file.is_file():
            where = "is not here yet" if self.data_dir is None else f"is not in {self.data_dir}"
            raise UserError(
                f"capability.source: {source} {where}; run caa-bench data download (4 MB), or set capability.source=own"
            )
        return file
