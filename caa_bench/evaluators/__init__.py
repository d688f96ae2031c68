"""What is measured. The folder scan IS the registry: a new file is a new evaluator."""

from __future__ import annotations

from functools import cache

from caa_bench.evaluators.answer_probability import AnswerProbability
from caa_bench.evaluators.base import Evaluator, Job, Treatment
from caa_bench.storage.registry import named_subclasses

__all__ = ["AnswerProbability", "Evaluator", "Job", "Treatment", "registry"]


@cache
def registry() -> dict[str, type[Evaluator]]:
    """Every evaluator in this folder by its `name`."""
    return named_subclasses(Evaluator, __name__)
